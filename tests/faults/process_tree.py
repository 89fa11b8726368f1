"""Processes, as the kernel shows them: which ones a server has, and which of them are gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.traffic import wait_until


class Process(NamedTuple):
    """One process: its number is another's after its end, its start is not."""

    pid: int
    start: int

    @property
    def lives(self) -> bool:
        return find(self.pid) == self


def find(pid: int) -> Process | None:
    """The process of that number, unless it is dead and only waits for its parent to notice."""
    fields = _fields(pid)
    return None if fields is None or fields[0] in "ZX" else Process(pid, int(fields[19]))


def parent(pid: int) -> int:
    fields = _fields(pid)
    assert fields is not None, f"process {pid} is gone"
    return int(fields[1])


def owner(pid: int) -> int:
    """The serving process that a compute worker is for: the parent of the one that it is a copy of."""
    return parent(parent(pid))


def descendants(pid: int) -> list[Process]:
    """Those that live, whoever of them started which."""
    return sorted(found for child in _children(pid) if (found := find(child)))


def session(leader: int) -> list[Process]:
    """The living processes of the session that ``leader`` began, whatever has become of it and of their parents."""
    found: list[Process] = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(entry.name))
        if fields is not None and int(fields[3]) == leader and (process := find(int(entry.name))):
            found.append(process)
    return sorted(found)


def assert_gone(processes: Iterable[Process], seconds: float = 5) -> None:
    processes = list(processes)
    assert processes
    wait_until(lambda: not any(process.lives for process in processes), f"the end of {processes}", seconds)


def _fields(pid: int) -> list[str] | None:
    """Of its status, from its state on (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            yield child
            yield from _children(child)
