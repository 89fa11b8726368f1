"""Processes that the benchmark starts: each leads a group of its own, which ends with it, and no other does."""

from __future__ import annotations

import os
import resource
import select
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
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MOST_READ_BYTES = 64 * 1024  # of a file that the kernel makes as it is read


@dataclass(frozen=True)
class Usage:
    """Of a process and its descendants.

    rss: bytes, pages that they share counted for each. anon: the part of it that no file lies under (RssAnon), which
    mapped files and the page cache leave alone. serving: the part of that which is the process's own and its
    children's: a server and what it starts to serve, and not what those start to work for them. cpu: seconds so far.
    """

    rss: int
    anon: int
    serving: int
    cpu: float


@dataclass(frozen=True)
class Cost:
    """Of a command that has ended, and of what it has started and waited for. rss: bytes, the most of one of them."""

    seconds: float
    cpu: float
    rss: int


class Leader(subprocess.Popen[bytes]):
    """The process that leads a group. used: its rusage (getrusage(2)) with its children's, once it is reaped."""

    used: resource.struct_rusage | None = None


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
) -> Generator[Leader]:
    """``command`` in ``folder``. At the end of the block it gets SIGTERM, and after a while its group SIGKILL."""
    process = None
    try:
        # An interrupt between the fork and the assignment would leave a process that nobody knows.
        with held_interrupts() as mask:
            process = Leader(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(signal.pthread_sigmask, signal.SIG_SETMASK, mask),  # there are no threads here
            )
        yield process
    finally:
        with held_interrupts():
            if process is not None:
                _end(process)


def run_to_end(
    command: Sequence[str], folder: Path, log: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> None:
    """As `cost`, of which nobody wants to know."""
    cost(command, folder, log, seconds, environment)


def cost(
    command: Sequence[str], folder: Path, log: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> Cost:
    """Runs ``command``. *Errors*: RuntimeError, with the end of its output, where it fails or takes too long."""
    began = time.perf_counter()
    with log.open("wb") as output, process_group(command, folder, output, environment) as process:
        if not _wait_precisely(process, seconds):
            raise RuntimeError(f"{Path(command[0]).name} did not end within {seconds} s:\n{tail(log)}")
        taken = time.perf_counter() - began
    used = process.used
    if process.returncode != 0 or used is None:
        raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}:\n{tail(log)}")
    return Cost(taken, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


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


def _wait_precisely(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """As `wait_ended`, and at once when it has."""
    descriptor = os.pidfd_open(process.pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def usage(pid: int) -> Usage:
    """Of ``pid`` and its descendants now. What this costs, a server pays that has no processor to spare: a few tenths
    of a millisecond, for which nothing is read that says the same at more length."""
    rss, anon, serving, cpu = 0, 0, 0, 0.0
    for member, generation in descendants(pid):
        with suppress(OSError):  # it has just ended
            fields = _read(f"/proc/{member}/stat").rpartition(b")")[2].split()
            _, resident, of_files, *_ = _read(f"/proc/{member}/statm").split()
            cpu += sum(map(int, fields[11:15])) / _TICKS  # its own, and that of children it has waited for
            rss += int(resident) * _PAGE_BYTES
            own = (int(resident) - int(of_files)) * _PAGE_BYTES
            anon += own
            serving += own if generation <= 1 else 0
    return Usage(rss, anon, serving, cpu)


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip()


def descendants(pid: int, generation: int = 0) -> Iterator[tuple[int, int]]:
    """With their generations, that of ``pid`` first."""
    yield pid, generation
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - a path for each takes longer than the rest
            with suppress(OSError):
                for child in _read(f"/proc/{pid}/task/{task}/children").split():
                    yield from descendants(int(child), generation + 1)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, _MOST_READ_BYTES)
    finally:
        os.close(descriptor)


def _end(process: Leader) -> None:
    if not has_ended(process):
        os.kill(process.pid, signal.SIGTERM)  # not terminate(), which may reap it
        wait_ended(process, _STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, status, process.used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
