#!/bin/sh
# Installs what the tests (and, with the argument "bench", the benchmarks) start beside Sluice, where it is missing.
set -eu

say() { echo "setup: $*" >&2; }

# A daemon is often in sbin, which is not on every user's PATH.
PATH=$PATH:/usr/sbin:/usr/local/sbin

packages=""
command -v mariadbd >/dev/null || packages="$packages mariadb-server"
command -v chromium >/dev/null || packages="$packages chromium"
command -v promtool >/dev/null || packages="$packages prometheus"
if [ "${1:-}" = bench ]; then
    command -v wrk >/dev/null || packages="$packages wrk"
    command -v node >/dev/null || packages="$packages nodejs"
    command -v npm >/dev/null || packages="$packages npm"
    command -v nginx >/dev/null || packages="$packages nginx-light"
    command -v mlr >/dev/null || packages="$packages miller"
fi
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "missing, and only root with apt-get can install them here:$packages"
    exit 1
fi
say "installing$packages"
# Packages start servers of their own unless they are told not to; the tests start private ones, and of Prometheus they
# want its promtool only.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
log=$(mktemp)
# shellcheck disable=SC2086 # several packages are several words
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "could not install$packages"
    exit 1
fi
rm -f "$log"
