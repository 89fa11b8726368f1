"""Servers with the tasks of `tests.compute.behaving`, and requests for those."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.faults.process_tree import Process, descendants, find
from tests.faults.traffic import Head, RawClient, wait_until
from tests.processes import SERVE, SluiceProcess, running

PROCESS = "/api/process"
_NONE: Mapping[str, str] = MappingProxyType({})


@contextmanager
def computing(
    folder: Path, command: list[str], variables: Mapping[str, str] = _NONE, *, workers: int = 1
) -> Generator[SluiceProcess]:
    """A server whose serving processes have one compute worker each, unless ``variables`` say otherwise."""
    config = folder / "tasks.toml"
    config.write_text('[tasks]\nmodules = ["tests.compute.behaving"]\n')
    settings = {
        "SLUICE_CONFIG": str(config),
        "SLUICE_COMPUTE_WORKERS": "1",
        "SLUICE_TASK_GRACE": "300ms",
        **variables,
    }
    with running(folder, command, workers=workers, **settings) as server:
        # Those that serve, one each that others are copies of, those, and one that multiprocessing needs for itself.
        count = workers * (int(settings["SLUICE_COMPUTE_WORKERS"]) + 1) + 1 + (0 if command is SERVE else workers)
        wait_until(lambda: len(descendants(server.pid)) == count, "all processes have started")
        yield server


@contextmanager
def losing(server: SluiceProcess, count: int) -> Generator[None]:
    """In the block so many compute workers end, which others replace, and no other process."""
    before = descendants(server.pid)
    serving = {process for process in before if descendants(process.pid)}
    told = ps([find(server.pid), *before])
    yield
    wait_until(lambda: len(descendants(server.pid)) == len(before), f"as many processes as before:\n{told}")
    after = descendants(server.pid)
    gone = set(before) - set(after)
    assert len(gone) == count, f"before:\n{told}\nafter:\n{ps([find(server.pid), *after])}"
    assert not gone & serving
    assert server.process.poll() is None


def ps(processes: list[Process | None]) -> str:
    """How an operator sees them."""
    pids = ",".join(str(process.pid) for process in processes if process)
    command = ["ps", "-o", "pid,ppid,ni,stat,args", "-p", pids]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def call(task: str, **arguments: object) -> bytes:
    """The request for it."""
    return json.dumps({"task": task, "args": arguments}).encode()


def post(port: int, body: bytes, source: str = "127.0.0.1", **fields: str) -> tuple[Head, Any]:
    """One request for a task, on a connection of its own."""
    with RawClient(port, source) as client:
        client.post(PROCESS, body, **fields)
        return client.answer()


def result_of(answer: tuple[Head, Any]) -> Any:
    head, document = answer
    assert head.status == 200, document
    return document["result"]


def error_of(answer: tuple[Head, Any]) -> tuple[int, str]:
    """The status and the name of a problem."""
    head, document = answer
    assert head.fields["content-type"] == "application/problem+json", document
    assert document["status"] == head.status
    return head.status, document["type"].removeprefix("urn:sluice:error:")


@dataclass(frozen=True)
class Mark:
    """A file by which a task tells that it has begun, and in which process."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        return self.path.exists() and bool(self.path.read_text())

    def process(self) -> Process:
        """The process, once the task has begun."""
        wait_until(lambda: self.exists, f"{self.path.name} begins")
        process = find(int(self.path.read_text()))
        assert process
        return process

    @property
    def cleaned_up(self) -> bool:
        return self.path.with_suffix(".ended").exists()

    @property
    def was_told(self) -> bool:
        return self.path.with_suffix(".told").exists()


class Gate(Mark):
    """A file for which tasks wait."""

    def open(self) -> None:
        self.path.touch()


@contextmanager
def held(server: SluiceProcess, folder: Path) -> Generator[tuple[Mark, Gate]]:
    """A worker has a task, until the gate is opened, at the end of the block if not before."""
    mark, gate = Mark(folder / f"held-{os.urandom(4).hex()}"), Gate(folder / f"gate-{os.urandom(4).hex()}")
    with RawClient(server.port, "127.0.0.9") as client:
        client.post(PROCESS, call("hold", begun=str(mark), then=str(gate)))
        mark.process()
        yield mark, gate
        gate.open()
        assert result_of(client.answer()) == "done"
