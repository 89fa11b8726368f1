"""Processes that the benchmark starts: each leads a group of its own, which ends with it, and no other does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

_STOP_SECONDS = 10
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Of a process and its descendants.

    rss: bytes, pages that they share counted for each. anon: the part of it that no file lies under (RssAnon), which
    mapped files and the page cache leave alone. cpu: seconds so far.
    """

    rss: int
    anon: int
    cpu: float


def raise_on_interrupts() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, once: what is being ended then is ended in peace."""

    def interrupt(*_: object) -> None:
        for number in _INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _INTERRUPTS:
        signal.signal(number, interrupt)


@contextmanager
def held_interrupts() -> Generator[set[int]]:
    """Interrupts wait until the end of the block. Yields the signal mask before it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        yield {int(number) for number in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def process_group(
    command: Sequence[str], folder: Path, output: IO[bytes], environment: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """``command`` in ``folder``. At the end of the block it gets SIGTERM, and after a while its group SIGKILL."""
    process = None
    try:
        # An interrupt between the fork and the assignment would leave a process that nobody knows.
        with held_interrupts() as mask:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(signal.pthread_sigmask, signal.SIG_SETMASK, mask),  # noqa: PLW1509 - no threads here
            )
        yield process
    finally:
        with held_interrupts():
            if process is not None:
                _end(process)


def run_to_end(
    command: Sequence[str], folder: Path, log: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> None:
    """Runs ``command``. *Errors*: RuntimeError, with the end of its output, where it fails or takes too long."""
    with log.open("wb") as output, process_group(command, folder, output, environment) as process:
        if not wait_ended(process, seconds):
            raise RuntimeError(f"{Path(command[0]).name} did not end within {seconds} s:\n{tail(log)}")
    if process.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}:\n{tail(log)}")


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without reaping it, so that its id, which is its group's too, stays its own."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not has_ended(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def usage(pid: int) -> Usage:
    """Of ``pid`` and its descendants now."""
    rss, anon, cpu = 0, 0, 0.0
    for member in _descendants(pid):
        with suppress(OSError):  # it has just ended
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            cpu += sum(map(int, fields[11:15])) / _TICKS  # its own, and that of children it has waited for
            status = dict(line.split(":", 1) for line in Path(f"/proc/{member}/status").read_text().splitlines())
            rss += int(status.get("VmRSS", "0").split()[0]) * 1024  # a process that has just ended has none
            anon += int(status.get("RssAnon", "0").split()[0]) * 1024
    return Usage(rss, anon, cpu)


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip()


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from _descendants(int(child))


def _end(process: subprocess.Popen[bytes]) -> None:
    if not has_ended(process):
        os.kill(process.pid, signal.SIGTERM)  # not terminate(), which may reap it
        wait_ended(process, _STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
