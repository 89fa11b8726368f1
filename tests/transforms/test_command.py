"""``python -m app transform``, as an operator runs it."""

from __future__ import annotations

import errno
import gzip
import os
import pty
import re
import signal
import subprocess
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.traffic import wait_until
from tests.processes import PYTHON, command_environment, run

_TEXT = "Straße, ΧΑΟΣ and more\n" * 50_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (path := tmp_path / "in.txt").write_text(_TEXT)
    return path


def _transform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "transform", *arguments)


def _start(folder: Path, *arguments: str, **pipes: Any) -> subprocess.Popen[Any]:
    command = [PYTHON, "-m", "app", "transform", *arguments]
    return subprocess.Popen(
        command, env=command_environment(folder), cwd=folder, stderr=subprocess.PIPE, text=False, **pipes
    )


def test_a_file_becomes_another(tmp_path: Path, source: Path) -> None:
    done = _transform(tmp_path, "in.txt", "out.txt", "--step", "upper")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out.txt").read_text() == _TEXT.upper()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def test_steps_follow_one_another_and_digests_are_told(tmp_path: Path, source: Path) -> None:
    done = _transform(tmp_path, "in.txt", "out.gz", "--step", "lower", "--step", "sha256", "--step", "gzip")
    assert re.fullmatch(r"sha256 [0-9a-f]{64}\n", done.stdout)
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()).decode() == _TEXT.lower()


def test_a_file_may_become_itself_and_keeps_its_mode(tmp_path: Path, source: Path) -> None:
    source.chmod(0o640)
    assert _transform(tmp_path, "in.txt", "in.txt", "--step", "upper").returncode == 0
    assert source.read_text() == _TEXT.upper()
    assert source.stat().st_mode & 0o777 == 0o640


def test_standard_input_and_output(tmp_path: Path) -> None:
    with _start(tmp_path, "-", "-", "--step", "upper", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        out, err = process.communicate(_TEXT.encode(), timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.decode() == _TEXT.upper()


def test_what_comes_through_a_pipe_is_passed_on_at_once(tmp_path: Path) -> None:
    with _start(tmp_path, "-", "-", "--step", "upper", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello")
        process.stdin.flush()
        assert process.stdout.read(5) == b"HELLO"
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.txt", "out.txt", "--step", "gunzip"], "in.txt"),
        (["bad.txt", "out.txt", "--step", "upper"], "byte 100000"),
        (["missing.txt", "out.txt", "--step", "upper"], "missing.txt: No such file"),
        (["in.txt", "nowhere/out.txt", "--step", "upper"], "No such file"),
        (["in.txt", "out.txt", "--step", "shout"], "'shout'"),
        (["in.txt", "out.txt", "--step", "gzip", "--step", "upper"], "upper, wants"),
        (["in.txt", "/dev/full", "--step", "upper"], os.strerror(errno.ENOSPC)),
    ],
)
def test_what_fails_is_told_in_one_line_and_leaves_what_was_there(
    tmp_path: Path, source: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"a" * 100_000 + b"\xff" + b"a" * 3_000_000)
    (tmp_path / "out.txt").write_text("before")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = _transform(tmp_path, *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("sluice: ")
    assert words in line or "gunzip" in arguments
    assert (tmp_path / "out.txt").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_what_was_there(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "out.txt").write_text("before")
    os.mkfifo(tmp_path / "in")
    with _start(tmp_path, "in", "out.txt", "--step", "upper") as process, (tmp_path / "in").open("wb") as feeding:
        feeding.write(b"x" * 1_000_000)
        wait_until(lambda: len(list(tmp_path.glob(".*.tmp"))) == 1, "it writes beside it")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"sluice: interrupted\n")
    assert (tmp_path / "out.txt").read_text() == "before"
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("arguments", [["in", "out.txt"], ["in.txt", "in"]])
def test_a_fifo_that_nobody_opens_can_be_given_up(tmp_path: Path, source: Path, arguments: list[str]) -> None:
    os.mkfifo(tmp_path / "in")
    with _start(tmp_path, *arguments, "--step", "upper") as process:
        wait_until(lambda: len(list(Path(f"/proc/{process.pid}/task").iterdir())) > 1, "a thread opens it")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"sluice: interrupted\n")


def test_what_standard_output_is_redirected_to_is_written_behind_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("keep ")
    with (tmp_path / "log").open("ab") as log:
        for name in ("/dev/stdout", "-"):
            with _start(tmp_path, "-", name, "--step", "upper", stdin=subprocess.PIPE, stdout=log) as process:
                process.communicate(b"abc ", timeout=60)
            assert process.returncode == 0
    assert (tmp_path / "log").read_text() == "keep ABC ABC "


def test_the_longest_name_of_a_file_will_do(tmp_path: Path, source: Path) -> None:
    assert _transform(tmp_path, "in.txt", "o" * 255, "--step", "upper").returncode == 0
    assert _transform(tmp_path, "in.txt", "o" * 256, "--step", "upper").returncode == 1


def test_a_terminal_sees_how_it_gets_on(tmp_path: Path, source: Path) -> None:
    here, there = pty.openpty()
    termios.tcsetwinsize(there, (24, 80))
    command = [PYTHON, "-m", "app", "transform", "in.txt", "out.txt", "--step", "upper"]
    process = subprocess.Popen(command, env=command_environment(tmp_path), cwd=tmp_path, stderr=there)
    os.close(there)
    seen = b""
    with suppress(OSError):  # what a terminal says when nobody is at its other end any more
        while part := os.read(here, 4096):
            seen += part
    os.close(here)
    assert process.wait(60) == 0
    assert b"100%" in seen
    assert re.search(rb"[0-9.]+[kMG]?B/s", seen)
