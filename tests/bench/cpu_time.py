"""What processes take of a processor, in time: /proc/PID/stat counts in ticks, which are too long for this."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.bench.process_group import descendants

_NOTHING = 0.0005  # seconds of it, in which no task is computed
_CALM_SECONDS, _CALM_CPU = 0.2, 0.005


@dataclass(frozen=True)
class Sample:
    """Of a process. at: by time.perf_counter(). cpu: seconds it took so far; 0 once it is gone. runs: whether one of
    its threads is on a processor or waits for one."""

    at: float
    cpu: float
    runs: bool


def sample(pid: int) -> Sample:
    """Now."""
    at = time.perf_counter()
    return Sample(at, _cpu(pid), any(state == "R" for state in _states(pid)))


def free_since(samples: Sequence[Sample]) -> float:
    """When the first of ``samples`` was taken after which the process did nothing more, not even end."""
    for earlier, later in reversed(list(pairwise(samples))):
        if earlier.runs or abs(later.cpu - earlier.cpu) > _NOTHING:
            return later.at
    return samples[0].at


def clocks(pid: int) -> dict[int, float]:
    """CPU time so far, in seconds, of ``pid`` and its descendants, by process."""
    return {member: _cpu(member) for member, _ in descendants(pid)}


def wait_calm(pid: int, seconds: float) -> None:
    """Until ``pid`` and its descendants have next to nothing to do. *Errors*: RuntimeError when they always have."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = clocks(pid)
        time.sleep(_CALM_SECONDS)
        if sum(max(0, cpu - before.get(member, 0)) for member, cpu in clocks(pid).items()) < _CALM_CPU:
            return
    raise RuntimeError(f"the server was still at work after {seconds:g} s")


def _cpu(pid: int) -> float:
    # How the kernel numbers the clock of another process (clock_getcpuclockid(3)), which Python has no function for.
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def _states(pid: int) -> list[str]:
    """Of its threads, in letters (proc_pid_stat(5))."""
    found: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has just ended
            found.append(thread.read_text().rpartition(")")[2].split()[0])
    return found
