"""Calls in processes: their bound, how they end with the task that wants them, and that none outlives its parent.

No `autojump_clock` here: time would jump while a process works.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import trio
import trio.testing

from app.flow.parents import parent_ended, watch_parent
from app.flow.processes import ProcessDied, ProcessPool, ProcessStatistics, open_processes

PATIENCE = 30
_spawn = multiprocessing.get_context("spawn")


def spin(begun: Path) -> None:
    tell(begun)
    while True:
        pass


def hold(begun: Path) -> None:
    """Like `spin`, in C, where no other thread of the process gets the interpreter's lock."""
    tell(begun)
    sum(range(10**12))


def tell(begun: Path) -> None:
    whole = begun.with_suffix(".part")
    whole.write_text(str(os.getpid()))
    whole.rename(begun)


def fail(detail: str) -> None:
    raise LookupError(detail)


def lives(pid: int) -> bool:
    """Whether any of its threads does: the first may be a zombie before the last has closed the pipes."""
    try:
        threads = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return lives(pid)  # one has just ended
    return any(thread.rpartition(")")[2].split()[0] not in "ZX" for thread in threads)


def was_waited_for(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await trio.sleep(0.005)


async def written(begun: Path) -> int:
    """The process that has told it, once it has."""
    await wait_until(begun.exists)
    return int(begun.read_text())  # noqa: ASYNC240


async def dies(pid: int) -> bool:
    await wait_until(lambda: not lives(pid), seconds=2)
    return True


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    async with open_processes("reports", 1) as opened:
        yield opened


# -- calls, and their bound --------------------------------------------------------------------------------------------


async def test_a_call_runs_in_a_process_that_stays_for_the_next(pool: ProcessPool) -> None:
    assert pool.statistics() == ProcessStatistics("reports", 1, busy=0, waiting=0, idle=0)
    assert await pool.run(divmod, 7, 3) == (2, 1)
    assert pool.statistics() == ProcessStatistics("reports", 1, busy=0, waiting=0, idle=1)
    first = await pool.run(os.getpid)
    assert first != os.getpid()
    assert await pool.run(os.getpid) == first


async def test_a_process_lets_its_parent_go_first(pool: ProcessPool) -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert await pool.run(os.getpriority, os.PRIO_PROCESS, 0) == min(ours + 10, 19)


async def test_what_the_call_raises_is_raised(pool: ProcessPool) -> None:
    with pytest.raises(LookupError, match="nothing"):
        await pool.run(fail, "nothing")
    with pytest.raises((AttributeError, TypeError), match="local object"):
        await pool.run(lambda: 1)
    assert pool.statistics().busy == 0


async def test_calls_past_the_size_wait_and_may_leave(pool: ProcessPool, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, spin, tmp_path / "begun")
        process = await written(tmp_path / "begun")
        with trio.move_on_after(0.05):
            await pool.run(tell, tmp_path / "never")
        nursery.start_soon(pool.run, tell, tmp_path / "never")
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == ProcessStatistics("reports", 1, busy=1, waiting=1, idle=0)
        assert lives(process)
        nursery.cancel_scope.cancel()
    assert pool.statistics() == ProcessStatistics("reports", 1, busy=0, waiting=0, idle=0)
    assert not (tmp_path / "never").exists()


# -- the end of a call -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [spin, hold])
async def test_a_cancelled_call_returns_when_its_process_and_no_other_is_gone(
    call: Callable[[Path], None], tmp_path: Path
) -> None:
    async with open_processes("reports", 2) as pool, trio.open_nursery() as others:
        others.start_soon(pool.run, spin, tmp_path / "stays")
        stays = await written(tmp_path / "stays")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, call, tmp_path / "ends")
            await written(tmp_path / "ends")
            nursery.cancel_scope.cancel()
        assert was_waited_for(await written(tmp_path / "ends"))
        assert lives(stays)
        others.cancel_scope.cancel()


async def test_a_call_that_is_cancelled_while_its_process_starts_leaves_none(pool: ProcessPool) -> None:
    before = set(children())
    for delay in (0, 0.001, 0.005, 0.02, 0.05):
        with trio.move_on_after(delay):
            await pool.run(time.sleep, PATIENCE)
        await wait_until(lambda: set(children()) == before)


def children() -> list[int]:
    """The copies of the fork server that there are; dead ones too, until it has waited for them."""
    servers = [pid for pid in children_of(os.getpid()) if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [pid for server in servers for pid in children_of(server)]


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


async def test_a_process_that_dies_in_a_call_is_told_and_replaced(pool: ProcessPool) -> None:
    with pytest.raises(ProcessDied):
        await pool.run(signal.raise_signal, signal.SIGKILL)
    assert await pool.run(divmod, 7, 3) == (2, 1)


async def test_a_process_that_dies_while_it_is_idle_is_replaced(pool: ProcessPool) -> None:
    process = await pool.run(os.getpid)
    os.kill(process, signal.SIGKILL)
    assert await dies(process)
    again = await pool.run(os.getpid)
    assert again != process
    # And closing the pool does not complain of one.
    os.kill(again, signal.SIGKILL)


# -- the end of the pool -----------------------------------------------------------------------------------------------


async def test_a_pool_that_is_left_ends_what_runs_and_what_is_idle(tmp_path: Path) -> None:
    async def fails(call: Callable[..., object], *arguments: object) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.run(call, *arguments)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            async with open_processes("reports", 2) as pool:
                nursery.start_soon(fails, spin, tmp_path / "begun")
                runs = await written(tmp_path / "begun")
                idle = await pool.run(os.getpid)
                nursery.start_soon(fails, spin, tmp_path / "second")
                await written(tmp_path / "second")
                nursery.start_soon(fails, spin, tmp_path / "never")
                await trio.testing.wait_all_tasks_blocked()
        assert not lives(runs)
        assert not lives(idle)
    await fails(os.getpid)
    assert not (tmp_path / "never").exists()


async def test_idle_processes_of_a_pool_that_is_left_are_gone() -> None:
    async with open_processes("reports", 1) as pool:
        idle = await pool.run(os.getpid)
        assert lives(idle)
    assert was_waited_for(idle)


# -- the end of the parent ---------------------------------------------------------------------------------------------
#
# A parent is spawned by the test, and spawns a child, which the parent's SIGKILL must take along.


def _without_pidfd(pid: int, flags: int = 0) -> int:
    raise OSError(38, "Function not implemented")


def child_that_watches(begun: Path, call: Callable[[Path], None], pidfd: bool) -> None:
    if not pidfd:
        os.pidfd_open = _without_pidfd
    watch_parent()
    call(begun)


def child_that_watches_late(begun: Path, go: Path, pidfd: bool) -> None:
    if not pidfd:
        os.pidfd_open = _without_pidfd
    tell(begun)
    while not go.exists():
        time.sleep(0.005)
    watch_parent()
    time.sleep(PATIENCE)


def child_that_awaits(begun: Path, ended: Path, pidfd: bool) -> None:
    if not pidfd:
        os.pidfd_open = _without_pidfd

    async def wait() -> None:
        with trio.move_on_after(0.1) as early:
            await parent_ended()
        assert early.cancelled_caught
        tell(begun)
        await parent_ended()
        await parent_ended()  # also when it is so from the beginning
        tell(ended)

    trio.run(wait)


def parent_of(child: Callable[[], None], forks: bool, pids: Connection) -> None:
    """forks: leaves a copy of its descriptors, the pipes to its child among them, in a process that outlives it."""
    process = _spawn.Process(target=child)
    process.start()
    copy = os.fork() if forks else 0
    if forks and copy == 0:
        time.sleep(PATIENCE)
        os._exit(0)
    pids.send((process.pid, copy))
    process.join()


@dataclass(frozen=True)
class Family:
    """A parent, the number of its child, and that of the process that has a copy of its pipes, or 0."""

    parent: BaseProcess
    child: int
    copy: int

    def kill_parent(self) -> None:
        self.parent.kill()
        self.parent.join()


@asynccontextmanager
async def family(child: Callable[[], None], *, forks: bool = False) -> AsyncGenerator[Family]:
    """They are killed at the end, should they live."""
    here, there = _spawn.Pipe(duplex=False)
    parent = _spawn.Process(target=parent_of, args=(child, forks, there))
    parent.start()
    with here, there:
        pid, copy = await trio.to_thread.run_sync(here.recv)
    try:
        yield Family(parent, pid, copy)
    finally:
        for process in filter(lives, filter(None, (pid, copy))):
            os.kill(process, signal.SIGKILL)
        parent.kill()
        parent.join()


@pytest.mark.parametrize("pidfd", [True, False])
@pytest.mark.parametrize("call", [spin, hold])
async def test_a_child_that_watches_dies_with_its_parent(
    call: Callable[[Path], None], pidfd: bool, tmp_path: Path
) -> None:
    async with family(partial(child_that_watches, tmp_path / "begun", call, pidfd)) as started:
        assert await written(tmp_path / "begun") == started.child
        assert lives(started.child)
        started.kill_parent()
        assert await dies(started.child)


async def test_it_dies_also_where_another_process_has_a_copy_of_its_parents_pipes(tmp_path: Path) -> None:
    async with family(partial(child_that_watches, tmp_path / "begun", spin, True), forks=True) as started:
        await written(tmp_path / "begun")
        started.kill_parent()
        assert await dies(started.child)
        assert lives(started.copy)


# Where another process has a copy of the pipes, only a pidfd tells.
@pytest.mark.parametrize(("pidfd", "forks"), [(True, False), (False, False), (True, True)])
async def test_a_child_whose_parent_died_before_it_watches_dies_at_once(
    pidfd: bool, forks: bool, tmp_path: Path
) -> None:
    late = partial(child_that_watches_late, tmp_path / "begun", tmp_path / "go", pidfd)
    async with family(late, forks=forks) as started:
        await written(tmp_path / "begun")
        started.kill_parent()
        assert lives(started.child)
        tell(tmp_path / "go")
        assert await dies(started.child)


@pytest.mark.parametrize("pidfd", [True, False])
async def test_the_end_of_the_parent_can_be_awaited(pidfd: bool, tmp_path: Path) -> None:
    async with family(partial(child_that_awaits, tmp_path / "begun", tmp_path / "ended", pidfd)) as started:
        await written(tmp_path / "begun")
        started.kill_parent()
        assert await written(tmp_path / "ended") == started.child
        assert await dies(started.child)


async def test_a_process_that_multiprocessing_did_not_start_has_no_parent() -> None:
    with pytest.raises(RuntimeError, match="no parent"):
        watch_parent()
    with trio.move_on_after(0.01) as waited:
        await parent_ended()
    assert waited.cancelled_caught
