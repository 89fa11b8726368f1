"""Jobs from their beginning to their end: states, progress, results, cancelling, and the shutdown."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trio
import trio.testing

import app.jobs.runs
import app.jobs.service
import app.storage.incoming
from app.errors import (
    DatabaseUnavailable,
    InsufficientStorage,
    JobNotFound,
    Overloaded,
    QueryFailed,
    ShuttingDown,
    StartError,
    TaskFailed,
    WorkerCrashed,
)
from app.flow.request import RequestScope, current_request
from app.jobs.job import INLINE_BYTES, Job, describe
from app.jobs.results import ROW_BYTES
from app.jobs.service import JobStatistics
from app.jobs.store import Store
from app.storage.database import Database
from tests.jobs.conftest import TTL, Room, open_room
from tests.jobs.engine import Engine, Submission

_MISSING = "0" * 32


async def rows(database: Database) -> list[tuple[object, ...]]:
    return list(await database.fetch("SELECT id, state, owner FROM jobs ORDER BY created"))


# -- how it goes -------------------------------------------------------------------------------------------------------


async def test_a_job_is_queued_runs_and_succeeds(room: Room) -> None:
    job, call = await room.begin("a")
    assert (job.state, job.task, job.started, job.finished, job.result) == ("queued", "task", None, None, None)
    assert await room.jobs.find(job.id) == job
    assert room.jobs.statistics() == JobStatistics(queued=1, running=0)
    call.start()
    running = await room.seen(job, "running")
    assert room.jobs.statistics() == JobStatistics(queued=0, running=1)
    assert running.started is not None
    assert running.started >= job.created
    call.end(b'{"a":1}')
    over = await room.jobs.wait(job.id, 20)
    assert (over.state, over.result, over.error) == ("succeeded", b'{"a":1}', None)
    assert over.finished is not None
    assert job.revision < running.revision < over.revision
    assert await room.jobs.result(over) == b'{"a":1}'
    assert room.engine.inside == 0


async def test_what_was_told_is_in_the_database_too(room: Room) -> None:
    job, call = await room.begin("a")
    call.start()
    call.tell(1, 10, "one")
    call.end(b"1")
    over = await room.jobs.wait(job.id, 20)
    await room.jobs._runs.wait_idle()
    assert await room.jobs.find(job.id) == over
    assert (over.progress.done, over.progress.total, over.progress.message) == (1, 10, "one")
    ((expires,),) = await room.database.fetch("SELECT expires FROM jobs")
    assert expires == pytest.approx((over.finished or 0) + TTL)


async def test_progress_is_seen_and_the_last_always(room: Room) -> None:
    job, call = await room.begin("a")
    call.start()
    running = await room.seen(job, "running")
    call.tell(1)
    assert (await room.jobs.later(running)).progress.done == 1
    begun = trio.current_time()
    for done in range(2, 150):
        call.tell(done)
        await trio.sleep(0.004)
    call.tell(500, 500, "last")
    call.end(b"null")
    over = await room.jobs.wait(job.id, 20)
    assert (over.progress.done, over.progress.message) == (500, "last")
    assert over.revision - running.revision <= 3 + (trio.current_time() - begun) * 4


async def test_a_task_that_fails_says_so(room: Room) -> None:
    job, call = await room.begin("a")
    call.start()
    call.end(TaskFailed("no", members={"exception": "ValueError"}))
    over = await room.jobs.wait(job.id, 20)
    assert over.state == "failed"
    assert json.loads(over.error or b"") == {
        "type": "urn:sluice:error:task-failed",
        "title": "Task failed",
        "status": 500,
        "detail": "no",
        "exception": "ValueError",
    }


async def test_a_bug_ends_its_job_and_no_other(room: Room) -> None:
    job, call = await room.begin("a")
    other, other_call = await room.begin("b")
    call.end(ZeroDivisionError("secret"))
    over = await room.jobs.wait(job.id, 20)
    assert over.state == "failed"
    assert b"secret" not in (over.error or b"")
    other_call.end(b"2")
    assert (await room.jobs.wait(other.id, 20)).state == "succeeded"


async def test_a_job_outlives_its_request_and_logs_under_its_id(room: Room) -> None:
    request = RequestScope("id-1")
    begun: list[tuple[Job, Submission]] = []

    async def serve() -> None:
        current_request.set(request)
        with request.scope:
            begun.append(await room.begin("a"))
            request.scope.cancel()
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
    ((job, call),) = begun
    assert room.jobs._runs.running[job.id].request.id == "id-1"
    call.end(b"1")
    assert (await room.jobs.wait(job.id, 20)).state == "succeeded"


async def test_waiting_ends_with_its_time(room: Room) -> None:
    job, _ = await room.begin("a")
    assert (await room.jobs.wait(job.id, 0.01)).state == "queued"


@pytest.mark.parametrize("id", [_MISSING, "", "x", "ä" * 32, "A" * 32, "0" * 5000])
async def test_an_unknown_job_is_not_found(room: Room, id: str) -> None:
    for asking in (room.jobs.find(id), room.jobs.wait(id, 1), room.jobs.cancel(id)):
        with pytest.raises(JobNotFound):
            await asking


# -- admission ---------------------------------------------------------------------------------------------------------


async def test_what_is_refused_leaves_nothing_behind(database: Database, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, Engine(places=0)) as room:
        closed: list[str] = []
        with ExitStack() as resources:
            resources.callback(closed.append, "payload")
            with pytest.raises(Overloaded) as refused:
                await room.jobs.begin("task", "a", resources=resources)
        assert refused.value.retry_after == 7.0
        assert closed == ["payload"]
        assert await rows(database) == []
        assert room.gate.statistics().running == 0


async def test_a_client_that_leaves_while_the_job_is_begun_leaves_none(room: Room) -> None:
    async def leave(turns: int, scope: trio.CancelScope) -> None:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    for turns in range(40):
        begun: list[Job] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, turns, nursery.cancel_scope)
            begun.append(await room.jobs.begin("task", "a"))
            nursery.cancel_scope.cancel()
        assert [id for id, _, _ in await rows(room.database)] == [job.id for job in begun] == [*room.jobs._runs.running]
        assert room.engine.inside == len(begun)
        for job in begun:
            room.engine.calls["a"].end(b"1")
            await room.jobs._runs.wait_idle()
            await room.database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))


async def test_where_the_row_fails_the_admission_is_given_back(room: Room) -> None:
    await room.database.execute("DROP TABLE jobs")
    closed: list[str] = []
    resources = ExitStack()
    resources.callback(closed.append, "payload")
    with pytest.raises(QueryFailed):
        await room.jobs.begin("task", "a", resources=resources)
    assert (room.engine.inside, closed, room.gate.statistics().running) == (0, ["payload"], 0)


@pytest.mark.parametrize("withdrawn", [True, False])
async def test_a_row_that_takes_too_long_is_not_waited_for(
    room: Room, monkeypatch: pytest.MonkeyPatch, *, withdrawn: bool
) -> None:
    insert = Store.insert

    async def slow(store: Store, job: Job, call: bytes | None) -> None:
        await insert(store, job, call)
        await trio.sleep_forever()

    async def away(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(app.jobs.runs, "_INSERT_SECONDS", 0.1)
    monkeypatch.setattr(Store, "insert", slow)
    if not withdrawn:
        monkeypatch.setattr(Store, "withdraw", away)
    with pytest.raises(DatabaseUnavailable):
        await room.jobs.begin("task", "a", retry_call=b"again")
    assert room.engine.inside == 0
    assert len(await rows(room.database)) == (0 if withdrawn else 1)
    await room.go_round()
    assert [state for _, state, _ in await rows(room.database)] == ([] if withdrawn else ["lost"])


async def test_the_payload_lives_as_long_as_its_job(room: Room) -> None:
    closed: list[str] = []
    resources = ExitStack()
    resources.callback(closed.append, "payload")
    job = await room.jobs.begin("task", "a", resources=resources)
    room.engine.calls["a"].start()
    await room.seen(job, "running")
    assert closed == []
    room.engine.calls["a"].end(b"1")
    await room.jobs._runs.wait_idle()
    assert closed == ["payload"]


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1, ROW_BYTES, ROW_BYTES + 1, 3 * ROW_BYTES + 7])
async def test_results_of_any_size_come_back(room: Room, size: int) -> None:
    result = b'"' + b"x" * (size - 2) + b'"'
    job, call = await room.begin("a")
    call.end(result)
    over = await room.jobs.wait(job.id, 20)
    await room.jobs._runs.wait_idle()
    assert over == await room.jobs.find(job.id)
    assert over.result == (result if size <= INLINE_BYTES else None)
    assert describe(over).result_url == f"/api/jobs/{job.id}/result"
    assert len(room.files()) == (1 if size > ROW_BYTES else 0)
    kept = await room.jobs.result(over)
    if not isinstance(kept, bytes):
        with closing(kept):
            kept = await kept.read(0, kept.size)
    assert kept == result


async def test_a_full_disk_is_a_failed_job(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise InsufficientStorage("there is no room for the report")

    monkeypatch.setattr(app.storage.incoming._File, "append", full)
    job, call = await room.begin("a")
    call.end(b"1" * (ROW_BYTES + 1))
    over = await room.jobs.wait(job.id, 20)
    assert over.state == "failed"
    error = json.loads(over.error or b"")
    assert (error["status"], error["detail"]) == (507, "there is no room for the job's result")
    assert room.files() == set()


async def test_a_folder_that_cannot_be_used_stops_the_start(database: Database, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(b"in the way")
    with pytest.raises(StartError, match=r"the jobs folder .* cannot be used"):
        async with open_room(database, tmp_path / "jobs"):
            pass


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_a_cancelled_job_is_cancelled(room: Room) -> None:
    job, call = await room.begin("a")
    call.start()
    over = await room.jobs.cancel(job.id)
    assert over.state == "cancelled"
    assert json.loads(over.error or b"")["type"] == "urn:sluice:error:task-cancelled"
    await room.jobs._runs.wait_idle()
    assert await room.jobs.cancel(job.id) == over
    assert call.left


async def test_cancelling_what_is_over_changes_nothing(room: Room) -> None:
    job, call = await room.begin("a")
    call.end(b"1")
    over = await room.jobs.wait(job.id, 20)
    await room.jobs._runs.wait_idle()
    assert await room.jobs.cancel(job.id) == over


# -- the end of the room -----------------------------------------------------------------------------------------------


async def test_a_job_counts_as_running_work_until_its_end_is_written(room: Room) -> None:
    _, call = await room.begin("a")
    assert room.gate.statistics().running == 1
    room.gate.start()
    call.end(b"1")
    with trio.fail_after(20):
        await room.gate.wait_idle()
    assert [state for _, state, _ in await rows(room.database)] == ["succeeded"]
    assert room.gate.statistics().finished == 1


async def test_a_cut_cancels_jobs_and_their_state_says_so(room: Room) -> None:
    job, call = await room.begin("a")
    call.start()
    await room.seen(job, "running")
    room.gate.start()
    room.gate.cut()
    with trio.fail_after(20):
        await room.gate.wait_idle()
    over = await room.jobs.find(job.id)
    assert over.state == "cancelled"
    assert json.loads(over.error or b"")["type"] == "urn:sluice:error:shutting-down"
    assert call.left
    assert room.gate.statistics().cut == 1
    with pytest.raises(ShuttingDown):
        await room.jobs.begin("task", "b")
    assert len(await rows(room.database)) == 1


async def test_the_room_waits_for_its_jobs_while_there_is_a_drain(database: Database, tmp_path: Path) -> None:
    closing_room = trio.Event()

    async def finish(engine: Engine) -> None:
        await closing_room.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        engine.calls["a"].end(b"1")

    async with trio.open_nursery() as nursery, open_room(database, tmp_path) as room:
        await room.begin("a")
        room.gate.start()
        nursery.start_soon(finish, room.engine)
        closing_room.set()
    assert [state for _, state, _ in await rows(database)] == ["succeeded"]


@pytest.mark.parametrize("how", ["in order", "cancelled"])
async def test_a_room_that_is_closed_writes_what_became_of_its_jobs(
    database: Database, tmp_path: Path, how: str
) -> None:
    engine = Engine()
    with trio.CancelScope() as scope:
        async with open_room(database, tmp_path, engine) as room:
            await room.begin("a")
            engine.calls["a"].start()
            await room.begin("b")
            if how == "cancelled":
                scope.cancel()
                await trio.lowlevel.checkpoint()
    assert [state for _, state, _ in await rows(database)] == ["cancelled", "cancelled"]
    assert all(call.left for call in engine.calls.values())


async def test_a_room_closes_in_time_although_the_database_is_away(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> bool:
        await trio.lowlevel.checkpoint()
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(app.jobs.runs, "_LAST_WORDS_SECONDS", 0.1)
    monkeypatch.setattr(app.jobs.service, "_CLOSE_SECONDS", 0.1)
    with trio.fail_after(20):
        async with open_room(database, tmp_path) as room:
            job, call = await room.begin("a")
            monkeypatch.setattr(Store, "write", away)
            call.end(b"1")
            room.gate.start()
            room.gate.cut()
    monkeypatch.undo()
    async with open_room(database, tmp_path) as later:
        await database.execute("DELETE FROM instances WHERE id = ?", (job.owner,))
        await later.go_round()
        assert (await later.jobs.find(job.id)).state == "lost"


async def test_a_failure_of_the_engine_itself_is_a_failed_job(room: Room) -> None:
    job, call = await room.begin("a")
    call.end(WorkerCrashed("it died", members={"signal": "SIGSEGV"}))
    assert (await room.jobs.wait(job.id, 20)).state == "failed"
