"""Worker processes under the real command: they work, and none outlives what it works for, however that ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.process_tree import Process, assert_gone, find
from tests.faults.traffic import RawClient, ask, refuses, wait_until
from tests.processes import HYPERCORN, SluiceProcess, running

PROCESS_APP = "tests.faults.process_app:build()"

one_and_several = pytest.mark.parametrize("workers", [1, 2])
# In Python, where the process's other threads get their turn, and in C, where they do not.
every_loop = pytest.mark.parametrize("path", ["/spin", "/hold"])


def children(pid: int) -> list[Process]:
    """Those that `multiprocessing` started, whichever thread of ``pid`` did it."""
    found: list[Process] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            process = find(int(child))
            if process and re.search(rb"spawn_main|forkserver", Path(f"/proc/{child}/cmdline").read_bytes()):
                found.append(process)
    return sorted(found)


def family(server: SluiceProcess) -> list[Process]:
    """The server's workers, the processes that theirs are copies of, and those."""
    workers = children(server.pid)
    return workers + [process for worker in workers for process in (*children(worker.pid), *copies(worker))]


def copies(worker: Process) -> list[Process]:
    """The processes that work for ``worker``: copies of one that it has for that."""
    return [process for origin in children(worker.pid) for process in children(origin.pid)]


@contextmanager
def serving(folder: Path, workers: int, **variables: str) -> Generator[SluiceProcess]:
    command = [*HYPERCORN[:-1], PROCESS_APP, "-w", str(workers)]
    with running(folder, command, workers=workers, **variables) as server:
        yield server


@contextmanager
def calling(server: SluiceProcess, folder: Path, path: str) -> Generator[tuple[RawClient, Process]]:
    """A client that waits for a call, and the process that works on it."""
    before = set(folder.glob("call-*"))
    with RawClient(server.port) as client:
        client.get(path)
        wait_until(lambda: set(folder.glob("call-*")) - before, "the call begins")
        (begun,) = set(folder.glob("call-*")) - before
        process = find(int(begun.name.rpartition("-")[2]))
        assert process
        yield client, process


@one_and_several
def test_each_worker_has_processes_of_its_own(workers: int, folder: Path) -> None:
    with serving(folder, workers) as server:
        serves = children(server.pid)
        assert len(serves) == workers
        for worker in serves:
            others = [other.pid for other in serves if other != worker]
            for other in others:
                os.kill(other, signal.SIGSTOP)
            head, answer = ask(server.port, "/add?a=20&b=22")
            for other in others:
                os.kill(other, signal.SIGCONT)
            assert (head.status, answer["sum"], answer["worker"]) == (200, 42, worker.pid)
            assert answer["process"] in [process.pid for process in copies(worker)]
        everything = family(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert_gone(everything, 1)
        assert not [line for line in server.log() if "exception" in line]


@every_loop
def test_the_process_of_a_client_that_leaves_ends_and_no_other(path: str, folder: Path) -> None:
    with serving(folder, 1) as server, calling(server, folder, path) as (_, stays):
        with calling(server, folder, path) as (client, process):
            client.finish()
            assert_gone([process], 1)
            assert stays.lives
        head, answer = ask(server.port, "/add?a=1&b=2")
        assert (head.status, answer["sum"]) == (200, 3)
        assert answer["process"] not in (process.pid, stays.pid)
        assert stays.lives


@one_and_several
@every_loop
def test_no_process_outlives_a_worker_that_is_killed(path: str, workers: int, folder: Path) -> None:
    with serving(folder, workers) as server, calling(server, folder, path) as (_, process):
        port, everything = server.port, family(server)
        (worker,) = [worker for worker in children(server.pid) if process in copies(worker)]
        os.kill(worker.pid, signal.SIGKILL)
        assert_gone([worker, process], 2)
        # Hypercorn's master then ends the other workers, and itself (with 0, for it looks at the last that ended).
        server.wait()
        assert_gone(everything, 2)
        assert refuses(port)


def test_no_process_outlives_a_worker_that_is_killed_while_it_starts_one(folder: Path) -> None:
    """(Now and then a process is quicker than we are, and at its call already.)"""
    for _ in range(8):
        with serving(folder, 1) as server, RawClient(server.port) as client:
            (worker,) = children(server.pid)
            client.get("/spin")
            wait_until(lambda worker=worker: copies(worker), "the process exists")
            starting = copies(worker)
            os.kill(worker.pid, signal.SIGKILL)
            assert_gone(starting, 2)
        calls = list(folder.glob("call-*"))
        if not calls:
            return
        for call in calls:
            call.unlink()
    pytest.fail("no process was caught while it started")


@one_and_several
@every_loop
def test_nothing_outlives_a_master_that_is_killed(path: str, workers: int, folder: Path) -> None:
    with serving(folder, workers) as server, calling(server, folder, path) as (_, process):
        port, everything = server.port, family(server)
        assert process in everything
        server.signal(signal.SIGKILL)
        assert_gone(everything, 2)
        assert refuses(port)


@one_and_several
def test_a_call_that_does_not_end_is_cut_at_shutdown(workers: int, folder: Path) -> None:
    with (
        serving(folder, workers, SLUICE_DRAIN_TIMEOUT="300ms") as server,
        calling(server, folder, "/spin") as (client, process),
    ):
        everything = family(server)
        assert process in everything
        server.signal(signal.SIGTERM)
        head, document = client.answer()
        assert (head.status, document["type"]) == (503, "urn:sluice:error:shutting-down")
        assert server.wait() == 0
        assert_gone(everything, 1)


def test_a_call_that_runs_survives_the_interrupt_of_a_terminal(folder: Path) -> None:
    with serving(folder, 1) as server, calling(server, folder, "/add?a=20&b=22&seconds=1") as (client, process):
        os.killpg(server.pid, signal.SIGINT)
        head, answer = client.answer()
        assert (head.status, answer["sum"], answer["process"]) == (200, 42, process.pid)
        assert server.wait() == 0
        assert_gone([process], 1)


def test_a_process_inherits_no_socket(folder: Path) -> None:
    with serving(folder, 1) as server, calling(server, folder, "/spin") as (_, process):
        (worker,) = children(server.pid)
        assert sockets(worker)
        assert not sockets(process)


def sockets(process: Process) -> list[str]:
    """What it has opened, beyond the standard streams that it was given."""
    links = [path for path in Path(f"/proc/{process.pid}/fd").iterdir() if int(path.name) > 2]
    return [target for target in map(os.readlink, links) if target.startswith("socket:")]
