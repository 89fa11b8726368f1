"""What every engine keeps: each caller gets its own result, whatever goes wrong is told, and who leaves ends its call.

No `autojump_clock`: time would jump while a process works.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import pytest
import trio
import trio.testing

from app.compute.engine import Call, Engine, Progress, Submitted
from app.compute.local import open_local_engine
from app.compute.memory_files import memory_file
from app.compute.payload import InFile, Inline, Payload
from app.errors import (
    BadJson,
    DeadlineExceeded,
    InvalidArguments,
    Overloaded,
    ResultUnusable,
    SluiceError,
    TaskCancelled,
    TaskFailed,
    TaskOutOfMemory,
    TaskOutOfTime,
    UnknownTask,
    WorkerCrashed,
)
from app.settings import ComputeSettings
from tests.flow.test_processes import lives, wait_until

PATIENCE = 30
MIB = 1024**2
SETTINGS = ComputeSettings(
    workers=2, queue=4, memory=512 * MIB, processor=600, grace=0.5, tasks_per_worker=1000, max_body=64 * MIB
)

type OpenEngine = Callable[[ComputeSettings], AbstractAsyncContextManager[Engine]]


@asynccontextmanager
async def _local(settings: ComputeSettings) -> AsyncGenerator[Engine]:
    async with open_local_engine(settings, ["tests.compute.behaving"]) as engine:
        yield engine


@pytest.fixture(params=[_local], ids=["local"])
def open_engine(request: pytest.FixtureRequest) -> OpenEngine:
    return request.param


def call(
    task: str | None, *, client: str = "", queue: float = math.inf, run: float = math.inf, **arguments: object
) -> Call:
    return Call(task, Inline(msgspec.json.encode(arguments)), client=client, queue_seconds=queue, run_seconds=run)


async def compute(engine: Engine, wanted: Call) -> object:
    async with engine.submit(wanted) as submitted:
        return msgspec.json.decode(await submitted.result())


async def fails(engine: Engine, wanted: Call) -> SluiceError:
    with trio.fail_after(PATIENCE):
        async with engine.submit(wanted) as submitted:
            try:
                await submitted.result()
            except SluiceError as error:
                return error
    raise AssertionError("it did not fail")


async def begun(path: Path) -> int:
    await wait_until(lambda: path.exists() and path.read_text())
    return int(path.read_text())  # noqa: ASYNC240


async def state(submitted: Submitted, wanted: str) -> None:
    with trio.fail_after(PATIENCE):
        while submitted.state != wanted:
            await submitted.changed()


def payload(data: bytes, kind: str) -> Payload:
    return Inline(data) if kind == "inline" else InFile(memory_file("test", data), len(data))


async def test_each_of_a_thousand_callers_gets_its_own_result(open_engine: OpenEngine) -> None:
    results: dict[int, object] = {}

    async def ask(number: int) -> None:
        results[number] = await compute(engine, call("echo", client=str(number % 7), value=[number, "x" * number]))

    async with open_engine(replace(SETTINGS, queue=1000)) as engine:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(ask, number)
        assert results == {number: [number, "x" * number] for number in range(1000)}
        statistics = engine.statistics()
    assert (statistics.tasks, statistics.running, statistics.waiting) == ({"succeeded": 1000}, 0, 0)


@pytest.mark.parametrize("size", [0, 1, 5000, 3 * MIB])
@pytest.mark.parametrize("kind", ["inline", "file"])
async def test_arguments_and_results_may_be_large(open_engine: OpenEngine, size: int, kind: str) -> None:
    data = msgspec.json.encode({"value": "é" * size})
    async with open_engine(SETTINGS) as engine:
        assert await compute(engine, Call("echo", payload(data, kind))) == "é" * size


async def test_the_file_of_a_call_is_empty_once_it_has_succeeded(open_engine: OpenEngine) -> None:
    async with open_engine(SETTINGS) as engine:
        given = payload(msgspec.json.encode({"value": "x" * MIB}), "file")
        assert isinstance(given, InFile)
        assert await compute(engine, Call("echo", given)) == "x" * MIB
        assert os.fstat(given.descriptor).st_size == 0


async def test_a_task_may_keep_what_it_was_given(open_engine: OpenEngine) -> None:
    data = msgspec.json.encode({"value": "x" * MIB})
    async with open_engine(SETTINGS) as engine:
        assert await compute(engine, Call("keep-raw", payload(data, "file"))) == [MIB + 2]
        assert await compute(engine, Call("keep-raw", payload(data, "file"))) == [MIB + 2, MIB + 2]


async def test_a_whole_request_is_parsed_where_it_is_computed(open_engine: OpenEngine) -> None:
    async with open_engine(SETTINGS) as engine:
        whole = msgspec.json.encode({"task": "echo", "args": {"value": [1, {"a": None}]}})
        assert await compute(engine, Call(None, payload(whole, "file"))) == [1, {"a": None}]
        assert isinstance(await fails(engine, Call(None, Inline(b'{"task": 1, '))), BadJson)
        assert isinstance(await fails(engine, Call(None, Inline(b'{"task": 1}'))), InvalidArguments)
        assert isinstance(await fails(engine, Call(None, Inline(b'{"task": "nothing"}'))), UnknownTask)


@pytest.mark.parametrize(
    ("wanted", "error", "members"),
    [
        (call("nothing"), UnknownTask, {}),
        (call("echo", values=1), InvalidArguments, None),
        (call("fail"), TaskFailed, {"exception": "LookupError", "message": "there is no such thing"}),
        (call("fail", how="oddly"), TaskFailed, {"exception": "_Odd", "message": "odd ? text"}),
        (call("exit"), TaskFailed, {"exception": "SystemExit", "message": "3"}),
        (call("unusable"), ResultUnusable, {}),
        (call("much", size=17 * MIB), ResultUnusable, {}),
        (call("allocate", size=100 * 1024 * MIB), TaskOutOfMemory, {}),
        (call("allocate", size=600 * MIB), TaskOutOfMemory, {}),
        (call("segfault"), WorkerCrashed, {"signal": "SIGSEGV"}),
        (call("stop"), WorkerCrashed, {"signal": "SIGKILL"}),
        (call("leave", code=7), WorkerCrashed, {"exit_code": 7}),
    ],
    ids=lambda value: value.task if isinstance(value, Call) else None,
)
async def test_what_goes_wrong_is_told_and_the_next_one_works(
    open_engine: OpenEngine, wanted: Call, error: type[SluiceError], members: dict[str, object] | None
) -> None:
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        told = await fails(engine, wanted)
        assert type(told) is error
        assert members is None or dict(told.members) == members
        with trio.fail_after(PATIENCE):
            assert await compute(engine, call("echo", value=1)) == 1


@pytest.mark.parametrize("leaves", [True, False])
async def test_what_a_task_has_forked_answers_nobody(open_engine: OpenEngine, leaves: bool) -> None:
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        with trio.fail_after(PATIENCE):
            for number in range(5):
                assert await compute(engine, call("fork", leaves=leaves)) == "done"
                assert await compute(engine, call("echo", value=number)) == number


@pytest.mark.parametrize("text", ["\0\0\0\3abc", "\0\0\0\1\0", "hello, this is no message"])
async def test_a_worker_that_talks_nonsense_ends_and_the_next_one_works(open_engine: OpenEngine, text: str) -> None:
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        assert type(await fails(engine, call("garble", text=text))) is WorkerCrashed
        with trio.fail_after(PATIENCE):
            assert await compute(engine, call("echo", value=1)) == 1


async def test_threads_of_a_task_tell_of_their_progress_and_garble_nothing(open_engine: OpenEngine) -> None:
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        with trio.fail_after(PATIENCE):
            for _ in range(3):
                assert await compute(engine, call("chatter", size=4 * MIB)) == "x" * 4 * MIB


async def test_a_task_that_raises_does_not_tell_its_traceback(open_engine: OpenEngine) -> None:
    async with open_engine(SETTINGS) as engine:
        error = await fails(engine, call("fail"))
    assert "Traceback" not in error.detail + repr(error.members)
    assert "behaving.py" in (error.internal or "")


@pytest.mark.parametrize("task", ["compute", "compute-in-c"])
async def test_a_task_may_take_so_much_of_a_processor(open_engine: OpenEngine, task: str) -> None:
    async with open_engine(replace(SETTINGS, workers=1, processor=0.2)) as engine:
        assert type(await fails(engine, call(task))) is TaskOutOfTime
        with trio.fail_after(PATIENCE):
            assert await compute(engine, call("echo", value=1)) == 1


async def test_progress_is_told_while_it_runs(open_engine: OpenEngine) -> None:
    seen: list[Progress] = []
    async with open_engine(SETTINGS) as engine, engine.submit(call("steps", count=4)) as submitted:
        with trio.fail_after(PATIENCE):
            while submitted.state != "ended":
                await submitted.changed()
                seen.append(submitted.progress)
        assert await submitted.result() == b'"done"'
    assert Progress(2, 4, "step 2") in seen
    assert [one.done for one in seen] == sorted(one.done for one in seen)


@pytest.mark.parametrize("fails", [False, True])
async def test_the_last_progress_is_told_however_soon_the_task_ends(open_engine: OpenEngine, fails: bool) -> None:
    async with open_engine(SETTINGS) as engine, engine.submit(call("hurry", count=1000, fails=fails)) as submitted:
        with trio.fail_after(PATIENCE), suppress(TaskFailed):
            await submitted.result()
        assert submitted.progress == Progress(1000, 1000, "step 1000")


async def test_progress_that_cannot_be_told_fails_in_the_task(open_engine: OpenEngine) -> None:
    async with open_engine(SETTINGS) as engine:
        error = await fails(engine, call("report-oddly"))
        assert error.members["exception"] == "ValueError"
        assert await compute(engine, call("echo", value=1)) == 1


# -- who leaves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["leaves", "cancels", "run limit"])
async def test_a_task_that_checks_in_ends_with_its_call_and_cleans_up(
    open_engine: OpenEngine, tmp_path: Path, how: str
) -> None:
    mark = tmp_path / "mark"
    async with open_engine(replace(SETTINGS, workers=1, grace=PATIENCE)) as engine:
        wanted = call("hold", run=0.2 if how == "run limit" else math.inf, begun=str(mark))
        with trio.fail_after(PATIENCE / 2):
            async with engine.submit(wanted) as submitted:
                worker = await begun(mark)
                if how == "cancels":
                    submitted.cancel()
                    with pytest.raises(TaskCancelled):
                        await submitted.result()
                elif how == "run limit":
                    with pytest.raises(DeadlineExceeded):
                        await submitted.result()
            assert mark.with_suffix(".ended").read_text() == "cleaned up"
            assert submitted.state == "ended"
            assert await compute(engine, call("pid")) == worker  # which was not killed


@pytest.mark.parametrize("task", ["spin", "swallow"])
async def test_a_task_that_does_not_is_killed_and_no_other_is(
    open_engine: OpenEngine, tmp_path: Path, task: str
) -> None:
    mark, other = tmp_path / "mark", tmp_path / "other"
    async with open_engine(SETTINGS) as engine, engine.submit(call("hold", begun=str(other))) as beside:
        survivor = await begun(other)
        with trio.fail_after(PATIENCE):
            async with engine.submit(call(task, begun=str(mark))):
                worker = await begun(mark)
            assert not lives(worker)
            assert (beside.state, lives(survivor)) == ("running", True)
            assert mark.with_suffix(".told").exists() == (task == "swallow")
            assert engine.statistics().killed == 1
            assert await compute(engine, call("echo", value=1)) == 1


async def test_a_call_that_is_cancelled_while_it_waits_never_starts(open_engine: OpenEngine, tmp_path: Path) -> None:
    first, second, third, gate = (tmp_path / name for name in ("first", "second", "third", "gate"))
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        async with engine.submit(call("hold", begun=str(first), then=str(gate))) as running:
            await state(running, "running")
            async with engine.submit(call("hold", begun=str(second))) as waiting:
                assert waiting.state == "queued"
                waiting.cancel()
                with pytest.raises(TaskCancelled):
                    await waiting.result()
            async with engine.submit(call("hold", begun=str(third))):
                pass
            gate.touch()
            await running.result()
        assert await compute(engine, call("echo", value=1)) == 1
    assert not second.exists()
    assert not third.exists()


async def test_calls_sent_ahead_can_be_cancelled_and_never_start(open_engine: OpenEngine, tmp_path: Path) -> None:
    """Quick ones share a worker; one of them, all of a sudden, is not."""
    marks = [tmp_path / str(number) for number in range(6)]
    gate = tmp_path / "gate"
    gate.touch()
    async with open_engine(replace(SETTINGS, workers=1, queue=10)) as engine:
        for _ in range(20):
            await compute(engine, call("hold", begun=str(tmp_path / "quick"), then=str(gate)))
        gate.unlink()
        async with (
            trio.open_nursery() as nursery,
            engine.submit(call("hold", begun=str(marks[0]), then=str(gate))) as slow,
        ):
            await begun(marks[0])
            scopes = [trio.CancelScope() for _ in marks[1:]]

            async def ask(mark: Path, scope: trio.CancelScope) -> None:
                with scope:
                    await compute(engine, call("hold", begun=str(mark), then=str(gate)))

            for mark, scope in zip(marks[1:], scopes, strict=True):
                nursery.start_soon(ask, mark, scope)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(PATIENCE):
                for scope in scopes[:3]:
                    scope.cancel()
                await wait_until(lambda: engine.statistics().waiting <= 2)
            gate.touch()
            await slow.result()
    assert [mark.exists() for mark in marks] == [True, False, False, False, True, True]


async def test_cancelling_and_starting_do_not_race(open_engine: OpenEngine) -> None:
    """Whatever the moment: the others get what is theirs, and nothing is left."""
    results: list[object] = []

    async def ask(number: int) -> None:
        if number % 3:
            results.append(await compute(engine, call("echo", client=str(number % 5), value=number)))
        else:
            with trio.move_on_after(number % 11 / 2000):
                await compute(engine, call("echo", client=str(number % 5), value=-number))

    async with open_engine(replace(SETTINGS, queue=1000)) as engine:
        with trio.fail_after(PATIENCE):
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(300):
                        nursery.start_soon(ask, number)
        statistics = engine.statistics()
    assert sorted(results) == sorted([number for number in range(300) if number % 3] * 3)  # type: ignore[type-var]
    assert (statistics.running, statistics.waiting, statistics.killed, statistics.crashed) == (0, 0, 0, 0)


async def test_no_task_is_killed_for_another_that_has_just_ended(
    open_engine: OpenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grace period ends while nobody has heard yet that the task did, and its worker is at the next one."""
    monkeypatch.setattr("app.compute.local._QUICK_SECONDS", 60.0)  # so that it is sent ahead, however slow we are
    open_gate = tmp_path / "open"
    open_gate.touch()
    async with open_engine(replace(SETTINGS, workers=1, queue=10, grace=0.1)) as engine:
        for attempt in range(4):
            for _ in range(60):  # so that it is sent ahead
                await compute(engine, call("stubborn", begun=str(tmp_path / "quick"), then=str(open_gate)))
            first, second, gate, end = (tmp_path / f"{name} {attempt}" for name in ("first", "second", "gate", "end"))
            async with (
                engine.submit(call("stubborn", begun=str(first), then=str(gate))) as stopped,
                engine.submit(call("stubborn", begun=str(second), then=str(end))) as other,
            ):
                await begun(first)
                stopped.cancel()
                await trio.testing.wait_all_tasks_blocked()  # so that the grace period has begun
                gate.touch()
                patience = time.monotonic() + PATIENCE
                while not second.exists():
                    assert time.monotonic() < patience
                    time.sleep(0.001)  # noqa: ASYNC251 - nothing is heard
                time.sleep(0.15)  # noqa: ASYNC251 - until the grace period is over
                await trio.testing.wait_all_tasks_blocked()
                end.touch()
                with trio.fail_after(PATIENCE):
                    assert await other.result() == b'"done"'
        assert (engine.statistics().killed, engine.statistics().crashed) == (0, 0)


# -- the queue ---------------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_says_when_to_come_again(open_engine: OpenEngine, tmp_path: Path) -> None:
    async with open_engine(replace(SETTINGS, workers=1, queue=1)) as engine:
        async with engine.submit(call("hold", begun=str(tmp_path / "a"))) as running:
            await state(running, "running")
            async with engine.submit(call("echo", value=1)):
                with pytest.raises(Overloaded) as refused:
                    async with engine.submit(call("echo", value=2)):
                        pass
                assert (refused.value.retry_after or 0) > 0
        assert await compute(engine, call("echo", value=3)) == 3


async def test_clients_take_turns(open_engine: OpenEngine, tmp_path: Path) -> None:
    done: list[str] = []

    async def ask(client: str) -> None:
        async with engine.submit(call("steps", client=client, count=1)) as submitted:
            await submitted.result()
        done.append(client)

    gate = tmp_path / "gate"
    async with (
        open_engine(replace(SETTINGS, workers=1, queue=10)) as engine,
        trio.open_nursery() as nursery,
        engine.submit(call("hold", begun=str(tmp_path / "a"), then=str(gate))) as running,
    ):
        await state(running, "running")
        for client in ["greedy"] * 4 + ["modest"] * 2:
            nursery.start_soon(ask, client)
            await trio.testing.wait_all_tasks_blocked()
        gate.touch()
    assert done == ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]


async def test_what_cannot_begin_in_time_is_not_begun(open_engine: OpenEngine, tmp_path: Path) -> None:
    gate, late = tmp_path / "gate", tmp_path / "late"
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        async with engine.submit(call("hold", begun=str(tmp_path / "a"), then=str(gate))) as running:
            await state(running, "running")
            error = await fails(engine, call("hold", queue=0.05, begun=str(late)))
            assert type(error) is DeadlineExceeded
            gate.touch()
            await running.result()
        assert await compute(engine, call("echo", value=1)) == 1
    assert not late.exists()


# -- the workers -------------------------------------------------------------------------------------------------------


async def test_workers_are_warm_and_are_replaced_after_their_tasks(open_engine: OpenEngine) -> None:
    async with open_engine(replace(SETTINGS, workers=1, tasks_per_worker=3)) as engine:
        await wait_until(lambda: engine.statistics().ready == 1)
        with trio.fail_after(PATIENCE):
            first = await compute(engine, call("pid"))
            workers = {first}
            while len(workers) < 3:
                workers.add(await compute(engine, call("pid")))
        statistics = engine.statistics()
        assert (statistics.crashed, statistics.killed) == (0, 0)
        await wait_until(lambda: not lives(cast("int", first)))


async def test_an_engine_gets_ready_without_being_asked(open_engine: OpenEngine, tmp_path: Path) -> None:
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        with trio.fail_after(PATIENCE):
            await engine.wait_ready()
        async with engine.submit(call("spin", begun=str(tmp_path / "mark"))):
            await begun(tmp_path / "mark")
            with trio.fail_after(PATIENCE):
                await engine.wait_ready()  # busy is ready


async def test_a_worker_that_has_grown_is_replaced(open_engine: OpenEngine) -> None:
    async with open_engine(replace(SETTINGS, workers=1, memory=64 * MIB)) as engine:
        first = await compute(engine, call("pid"))
        assert await compute(engine, call("keep", size=48 * MIB)) is None
        with trio.fail_after(PATIENCE):
            while await compute(engine, call("pid")) == first:
                pass


async def test_the_end_of_a_worker_is_noticed_also_while_a_process_of_its_task_lives(open_engine: OpenEngine) -> None:
    async with open_engine(replace(SETTINGS, workers=1)) as engine:
        began = time.monotonic()
        assert type(await fails(engine, call("leave-a-child", seconds=PATIENCE / 2))) is WorkerCrashed
        assert time.monotonic() - began < PATIENCE / 2
        with trio.fail_after(PATIENCE):
            assert await compute(engine, call("echo", value=1)) == 1


async def test_leaving_the_engine_leaves_no_process(open_engine: OpenEngine, tmp_path: Path) -> None:
    async with open_engine(SETTINGS) as engine:
        workers: set[int] = set()
        with trio.fail_after(PATIENCE):
            while len(workers) < 2:
                async with engine.submit(call("pid")) as one, engine.submit(call("pid")) as two:
                    workers |= {int(await one.result()), int(await two.result())}
    assert not any(lives(worker) for worker in workers)
    assert os.getpid() not in workers
