"""The local engine while clients come and go and workers die, at whatever moment."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
from collections import Counter
from pathlib import Path

import msgspec
import trio

from app.compute.engine import Call
from app.compute.local import LocalEngine, open_local_engine
from app.compute.memory_files import memory_file
from app.compute.payload import InFile, Inline, Payload
from app.errors import DeadlineExceeded, Overloaded, TaskCancelled, WorkerCrashed
from app.settings import ComputeSettings

_SECONDS = 7
_CLIENTS = 12
_SETTINGS = ComputeSettings(
    workers=2,
    queue=8,
    memory=512 * 1024**2,
    processor=600,
    grace=0.02,
    tasks_per_worker=200,
    max_body=64 * 1024**2,
)


class _Clients:
    """They ask for all sorts of tasks, in all sorts of ways, until it is time to end."""

    def __init__(self, engine: LocalEngine, folder: Path, seed: int) -> None:
        self._engine = engine
        self._folder = folder
        self._random = random.Random(seed)
        self._asked = 0
        self.accepted = 0
        self.outcomes: Counter[str] = Counter()
        self.retries: set[float] = set()

    async def run(self, name: str) -> None:
        while True:
            self._asked += 1
            await self._ask(name, self._asked)

    async def _ask(self, name: str, number: int) -> None:
        chance = self._random
        patience = chance.choice([10, 10, 10, 0.05, 0.005, 0])
        queue, limit = chance.choice([10, 10, 0.01]), chance.choice([10, 0.01])
        arguments: dict[str, object]
        with trio.move_on_after(patience):
            match chance.randrange(200):
                case 0:
                    task = chance.choice(["segfault", "leave", "stop"])
                    await self._compute(name, task, {"code": 3} if task == "leave" else {}, None, queue, limit)
                case 1:
                    arguments = {"begun": str(self._folder / f"{number}")}
                    await self._compute(name, "spin", arguments, None, queue, 0.01)
                case kind if kind < 40:
                    arguments = {"begun": str(self._folder / f"{number}"), "then": "/"}
                    await self._compute(name, "hold", arguments, "done", queue, limit)
                case kind if kind < 80:
                    value = [number, "x" * chance.randrange(300_000)]
                    await self._compute(name, "echo", {"value": value}, value, queue, limit)
                case _:
                    await self._compute(name, "echo", {"value": number}, number, queue, limit)

    async def _compute(
        self, name: str, task: str, arguments: dict[str, object], wanted: object, queue: float, limit: float
    ) -> None:
        file: int | None = None
        payload: Payload = Inline(msgspec.json.encode(arguments))
        if self._random.random() < 0.2:
            file = memory_file("test", payload.data)
            payload = InFile(file, len(payload.data))
        try:
            call = Call(task, payload, client=name, queue_seconds=queue, run_seconds=limit)
            async with self._engine.submit(call) as submitted:
                self.accepted += 1
                if self._random.random() < 0.1:
                    submitted.cancel()
                assert msgspec.json.decode(await submitted.result()) == wanted
                self.outcomes["succeeded"] += 1
        except (WorkerCrashed, DeadlineExceeded, TaskCancelled) as error:
            self.outcomes[error.name] += 1
        except Overloaded as error:
            self.retries.add(error.retry_after or 0)
            await trio.sleep(0.001)
        finally:
            if file is not None:
                os.close(file)


async def _kill_workers(chance: random.Random) -> None:
    """(Not to the very end: who comes afterwards must not get one whose death has not been noticed.)"""
    with trio.move_on_after(_SECONDS - 1):
        while True:
            await trio.sleep(2 * chance.random())
            processes = multiprocessing.active_children()
            if processes and (pid := chance.choice(processes).pid) is not None:
                os.kill(pid, signal.SIGKILL)


def _open_files() -> int:
    # One that was killed while it was being started is forgotten only now, or at the next start, with its two pipes.
    multiprocessing.active_children()
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


async def _echo(engine: LocalEngine) -> None:
    with trio.fail_after(30):
        async with engine.submit(Call("echo", Inline(b'{"value":1}'))) as submitted:
            assert await submitted.result() == b"1"


async def test_everybody_gets_what_is_theirs_whoever_leaves_or_dies(tmp_path: Path) -> None:
    async with open_local_engine(_SETTINGS, ["tests.compute.behaving"]) as engine:
        await _echo(engine)  # what is opened for the first process of all stays
    before = _open_files()
    seed = random.randrange(2**32)
    async with open_local_engine(_SETTINGS, ["tests.compute.behaving"]) as engine:
        clients = _Clients(engine, tmp_path, seed)
        with trio.move_on_after(_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_kill_workers, random.Random(seed))
                for number in range(_CLIENTS):
                    nursery.start_soon(clients.run, f"client {number % 5}")
        statistics = engine.statistics()
        assert (statistics.running, statistics.waiting) == (0, 0), seed
        assert sum(statistics.tasks.values()) == clients.accepted, seed
        assert set(statistics.tasks) <= {"succeeded", "worker-crashed", "deadline", "task-cancelled"}, seed
        assert all(statistics.tasks[name] >= count for name, count in clients.outcomes.items()), seed
        assert min(statistics.killed, statistics.crashed, clients.outcomes["succeeded"]) > 0, seed
        assert all(0 < seconds < 60 for seconds in clients.retries), (seed, clients.retries)
        await _echo(engine)
    assert _open_files() == before, seed
    assert not multiprocessing.active_children()
