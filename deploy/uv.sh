#!/bin/sh
# Runs uv with its arguments, on the first interpreter of 3.12 or newer that really starts. uv comes from PATH, or by pip
# into .tools. Where no interpreter is new enough, uv is left to fetch one.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

# A pyenv shim is on PATH and fails when it starts; so each candidate is tried, not just looked for.
new_enough() {
    "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python; do
        found=$(command -v "$name" 2>/dev/null) || continue
        if new_enough "$found"; then echo "$found"; return; fi
    done
    for found in "$HOME"/.pyenv/versions/*/bin/python3 /usr/local/bin/python3*; do
        case $found in *-config) continue ;; esac
        if [ -x "$found" ] && new_enough "$found"; then newest=$found; fi
    done
    echo "${newest:-}"
}

find_uv() {
    if found=$(command -v uv 2>/dev/null) && "$found" --version >/dev/null 2>&1; then echo "$found"; return; fi
    if .tools/bin/uv --version >/dev/null 2>&1; then echo .tools/bin/uv; return; fi
    maker=${python:-$(command -v python3 || true)}
    if [ -z "$maker" ]; then say "no python3 found: install Python 3.12 or newer, or uv"; exit 1; fi
    say "installing uv into .tools"
    rm -rf .tools
    if ! { "$maker" -m venv .tools && .tools/bin/pip install --quiet uv; } >&2; then
        say "uv could not be installed by pip: install Python 3.12 or newer with its venv module, or uv"
        exit 1
    fi
    echo .tools/bin/uv
}

python=$(find_python)
uv=$(find_uv)
if [ -n "$python" ]; then
    exec env UV_PYTHON="$python" UV_PYTHON_DOWNLOADS=never "$uv" "$@"
fi
say "no Python of 3.12 or newer starts here; uv looks for one that it can fetch"
if ! env UV_PYTHON=">=3.12" "$uv" "$@"; then
    say "missing: Python 3.12 or newer"
    exit 1
fi
