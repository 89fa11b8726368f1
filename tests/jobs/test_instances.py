"""Several instances on one database: watching and cancelling each other's jobs, and what is done for the dead."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

import app.jobs.service
import app.jobs.upkeep
from app.errors import (
    DatabaseUnavailable,
    DuplicateKey,
    InsufficientStorage,
    JobLost,
    JobNotFound,
    QueryFailed,
    TaskFailed,
)
from app.flow.spans import recording
from app.jobs.job import Job, new_job
from app.jobs.results import ROW_BYTES
from app.jobs.store import Store
from app.storage.database import Database
from app.telemetry.logs import _identify
from tests.flow.test_spans import Kept
from tests.jobs.conftest import TTL, Room, open_room
from tests.jobs.engine import Engine


@pytest.fixture
async def other(room: Room, tmp_path: Path) -> AsyncIterator[Room]:
    """Another instance, beside ``room``."""
    async with open_room(room.database, tmp_path / "jobs") as opened:
        yield opened


async def left_behind(
    database: Database, *, call: bytes | None = None, state: str = "running", owner: str = "", known: bool = True
) -> Job:
    """A job as an instance leaves it that was killed. known: whether nobody has buried that instance yet."""
    job = new_job(secrets.token_hex(16), "task", owner or secrets.token_hex(16), 1000.0)
    if known:
        with suppress(DuplicateKey):
            await database.execute("INSERT INTO instances (id, beat) VALUES (?, 1)", (job.owner,))
    await Store(database, TTL).insert(job, call)
    await database.execute("UPDATE jobs SET state = ?, started = 1001, done = 3 WHERE id = ?", (state, job.id))
    return job


# -- the living --------------------------------------------------------------------------------------------------------


async def test_a_job_is_seen_from_everywhere(room: Room, other: Room) -> None:
    job, call = await room.begin("a")
    assert await other.jobs.find(job.id) == job
    call.start()
    running = await other.seen(job, "running")
    call.tell(1, 2, "half")
    with trio.fail_after(20):
        told = await other.jobs.later(running)
    assert (told.progress.done, told.progress.total, told.progress.message) == (1, 2, "half")
    call.end(b"[1]")
    over = await other.jobs.wait(job.id, 20)
    assert (over.state, over.result, await other.jobs.result(over)) == ("succeeded", b"[1]", b"[1]")


async def test_a_job_is_cancelled_from_elsewhere(room: Room, other: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    requested, failures = Store.cancel_requested, [DatabaseUnavailable("away")]

    async def failing(store: Store, owner: str) -> list[str]:
        if failures:
            raise failures.pop()
        return await requested(store, owner)

    monkeypatch.setattr(Store, "cancel_requested", failing)
    job, call = await room.begin("a")
    call.start()
    assert (await other.jobs.cancel(job.id)).state == "cancelled"
    assert (call.cancelled, failures) == (True, [])


async def test_one_that_does_not_listen_is_waited_for_no_longer_than_the_grace(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.jobs.service, "_CANCEL_SECONDS", 0.1)
    async with open_room(room.database, tmp_path / "jobs", Engine(stubborn=True)) as deaf:
        job, call = await deaf.begin("a")
        with trio.fail_after(20):
            assert (await room.jobs.cancel(job.id)).state == "queued"
        call.end(b"1")


# -- the dead ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_job_of_a_dead_instance_is_lost(room: Room, state: str) -> None:
    job = await left_behind(room.database, state=state)
    await room.instance.find_dead(job.owner)
    lost = await room.jobs.find(job.id)
    assert (lost.state, lost.progress.done, lost.started) == ("lost", 3, 1001)
    assert json.loads(lost.error or b"")["type"] == "urn:sluice:error:job-lost"
    assert lost.finished is not None
    assert lost.revision == job.revision + 1
    await room.instance.find_dead(job.owner)
    assert await room.jobs.find(job.id) == lost


async def test_what_was_over_stays_as_it_is(room: Room) -> None:
    job, call = await room.begin("a")
    call.end(TaskFailed("no"))
    over = await room.jobs.wait(job.id, 20)
    await room.jobs._runs.wait_idle()
    await room.instance.find_dead(job.owner)
    assert await room.jobs.find(job.id) == over


async def test_a_job_that_may_be_run_again_is_run_by_one_of_its_finders(room: Room, other: Room) -> None:
    jobs = [await left_behind(room.database, call=f"call-{number}".encode(), owner="d" * 32) for number in range(5)]
    async with trio.open_nursery() as nursery:
        for finder in (room, other, room, other):
            nursery.start_soon(finder.instance.find_dead, "d" * 32)
    for number, job in enumerate(jobs):
        found = await room.jobs.find(job.id)
        assert found.owner in {room.instance.id, other.instance.id}
        runs = room if found.owner == room.instance.id else other
        call = await runs.engine.call(f"call-{number}")
        assert f"call-{number}" not in (other if runs is room else room).engine.calls
        call.start()
        running = await room.seen(job, "running")
        assert running.progress.done == 0
        call.end(b"2")
        assert (await other.jobs.wait(job.id, 20)).result == b"2"


@pytest.mark.parametrize("sampled", [True, False])
async def test_one_that_is_run_again_has_a_trace_of_its_own(room: Room, sampled: bool) -> None:
    kept = Kept(sampled=sampled)
    with recording(kept), structlog.testing.capture_logs([_identify]) as logs:
        job = await left_behind(room.database, call=b"again")
        await room.instance.find_dead(job.owner)
        (await room.engine.call("again")).end(b"1")
        await room.jobs.wait(job.id, 20)
        while room.jobs.statistics().running:  # noqa: ASYNC110 - it tells nobody that it has left
            await trio.sleep(0.001)
    (line,) = [line for line in logs if line["event"] == "job"]
    assert len(line["trace_id"]) == 32
    assert bool(kept.spans) == sampled
    if sampled:
        told = kept.named("job")
        assert (told.kind, told.parent, told.attributes["sluice.job"]) == ("internal", None, job.id)
        assert {f"{one.tree.trace_id:032x}" for one in kept.spans} == {line["trace_id"]}


async def test_a_job_that_was_run_again_is_not_run_a_third_time(room: Room, other: Room) -> None:
    job = await left_behind(room.database, call=b"again")
    await room.instance.find_dead(job.owner)
    call = await room.engine.call("again")
    call.start()
    await room.seen(job, "running")
    await other.instance.find_dead(room.instance.id)
    assert (await other.jobs.find(job.id)).state == "lost"
    assert "again" not in other.engine.calls


async def test_a_job_that_somebody_cancelled_is_not_run_again(room: Room) -> None:
    job = await left_behind(room.database, call=b"again")
    await Store(room.database, TTL).request_cancel(job.id)
    await room.instance.find_dead(job.owner)
    assert (await room.jobs.find(job.id)).state == "cancelled"
    assert room.engine.calls == {}


async def test_one_that_is_run_again_waits_for_a_place(database: Database, tmp_path: Path) -> None:
    engine = Engine(places=0)
    engine.retry_after = 0.01
    async with open_room(database, tmp_path, engine) as room:
        job = await left_behind(database, call=b"again")
        cancelled = await left_behind(database, call=b"never", owner=job.owner)
        await room.instance.find_dead(job.owner)
        assert (await room.jobs.cancel(cancelled.id)).state == "cancelled"
        assert (await room.jobs.find(job.id)).state == "queued"
        engine.places = 1
        (await engine.call("again")).end(b"1")
        assert (await room.jobs.wait(job.id, 20)).state == "succeeded"
        assert "never" not in engine.calls


async def test_who_was_taken_for_dead_computes_no_further_and_changes_nothing(room: Room, other: Room) -> None:
    job, call = await room.begin("a")
    call.start()
    await room.seen(job, "running")
    await other.instance.find_dead(room.instance.id)
    lost = await other.jobs.find(job.id)
    assert lost.state == "lost"
    call.tell(1)
    with trio.fail_after(20):
        await call.left_event.wait()
        await room.jobs._runs.wait_idle()
    assert await room.jobs.find(job.id) == lost


@pytest.mark.parametrize("size", [10, ROW_BYTES + 1])
async def test_a_result_that_comes_too_late_leaves_nothing(room: Room, other: Room, size: int) -> None:
    job, call = await room.begin("a", retry_call=b"again")
    await other.instance.find_dead(room.instance.id)
    call.end(b"1" * size)
    with trio.fail_after(20):
        await room.jobs._runs.wait_idle()
    assert (await room.jobs.find(job.id)).owner == other.instance.id
    assert room.files() == set()
    (await other.engine.call("again")).end(b"2")
    assert (await room.jobs.wait(job.id, 20)).result == b"2"


async def test_a_call_that_cannot_be_made_anew_is_lost(room: Room) -> None:
    job = await left_behind(room.database, call=b"")
    await room.instance.find_dead(job.owner)
    assert (await room.jobs.find(job.id)).state == "lost"


async def test_who_shuts_down_takes_no_job_over(room: Room, other: Room) -> None:
    job = await left_behind(room.database, call=b"again")
    room.gate.start()
    await room.instance.find_dead(job.owner)
    assert await room.jobs.find(job.id) == await other.jobs.find(job.id)
    assert (await room.jobs.find(job.id)).owner == job.owner
    await other.instance.find_dead(job.owner)
    (await other.engine.call("again")).end(b"1")
    assert (await room.jobs.wait(job.id, 20)).state == "succeeded"


async def test_a_bug_of_the_engine_ends_the_job_that_is_run_again_and_no_other(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await left_behind(room.database, call=b"again")
    mine, _ = await room.begin("a")
    monkeypatch.setattr(Engine, "submit", lambda *_: 1 / 0)
    await room.instance.find_dead(job.owner)
    assert (await room.jobs.wait(job.id, 20)).state == "failed"
    assert (await room.jobs.find(mine.id)).state == "queued"


# -- from time to time -------------------------------------------------------------------------------------------------


async def test_jobs_of_instances_that_are_gone_are_found(room: Room, other: Room) -> None:
    job = await left_behind(room.database, known=False)
    mine, _ = await room.begin("a")
    others, _ = await other.begin("b")
    await room.go_round()
    assert (await room.jobs.find(job.id)).state == "lost"
    assert (await room.jobs.find(mine.id)).state == (await room.jobs.find(others.id)).state == "queued"


async def test_a_job_of_ours_that_does_not_run_is_lost(room: Room) -> None:
    job = await left_behind(room.database, owner=room.instance.id, call=b"again")
    await room.go_round()
    assert (await room.jobs.find(job.id)).state == "lost"
    assert room.engine.calls == {}


async def test_jobs_are_kept_for_their_time_and_then_removed_with_their_files(room: Room, other: Room) -> None:
    kept, call = await room.begin("a")
    call.end(b"1" * (ROW_BYTES + 1))
    gone = []
    for number in range(3):
        job, call = await room.begin(f"b{number}")
        call.end(b"1" * (ROW_BYTES + number))
        await room.jobs.wait(job.id, 20)
        gone.append(job)
    queued, _ = await room.begin("c")
    await room.jobs.wait(kept.id, 20)
    for job in gone:
        await room.database.execute("UPDATE jobs SET expires = 1 WHERE id = ?", (job.id,))
    assert len(room.files()) == 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.go_round)
        nursery.start_soon(other.go_round)
    assert len(room.files()) == 1
    for job in gone:
        with pytest.raises(JobNotFound):
            await room.jobs.find(job.id)
    assert (await room.jobs.find(kept.id)).state == "succeeded"
    assert (await room.jobs.find(queued.id)).state == "queued"


async def test_many_that_are_over_are_removed_batch_by_batch(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.jobs.upkeep, "_MOST_EXPIRED", 3)
    for _ in range(8):
        job = await left_behind(room.database)
        await room.database.execute("UPDATE jobs SET state = 'lost', expires = 1 WHERE id = ?", (job.id,))
    await room.go_round()
    assert await room.database.fetch("SELECT id FROM jobs") == []


async def test_files_that_no_row_names_are_swept(room: Room, tmp_path: Path) -> None:
    job, call = await room.begin("a")
    call.end(b"1" * (ROW_BYTES + 1))
    over = await room.jobs.wait(job.id, 20)
    kept = room.files()
    name = secrets.token_hex(16) + ".json"
    (room.folder / name[:2]).mkdir(exist_ok=True)
    (room.folder / name[:2] / name).write_bytes(b"left behind")
    await room.jobs._results.sweep()
    assert room.files() == kept
    assert not isinstance(await room.jobs.result(over), bytes)


async def test_a_result_whose_file_is_gone_is_told(room: Room) -> None:
    job, call = await room.begin("a")
    call.end(b"1" * (ROW_BYTES + 1))
    over = await room.jobs.wait(job.id, 20)
    (room.folder / room.files().pop()).unlink()
    with pytest.raises(JobLost):
        await room.jobs.result(over)


# -- a database that goes and comes ------------------------------------------------------------------------------------


async def test_an_end_that_cannot_be_written_is_written_later(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = Store.write, [DatabaseUnavailable("away"), InsufficientStorage("full"), DatabaseUnavailable("a")]

    async def failing(store: Store, *arguments: Any, **options: Any) -> bool:
        done = await write(store, *arguments, **options)
        if failures:
            raise failures.pop()  # as where its answer was lost
        return done

    job, call = await room.begin("a")
    monkeypatch.setattr(Store, "write", failing)
    call.start()
    call.end(b"1" * (ROW_BYTES + 1))
    over = await room.jobs.wait(job.id, 20)
    await room.jobs._runs.wait_idle()
    assert (over.state, failures) == ("succeeded", [])
    assert not isinstance(await room.jobs.result(over), bytes)


async def test_a_result_that_nothing_takes_is_a_failed_job(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Store.write

    async def refusing(store: Store, job: Job, *arguments: Any, **options: Any) -> bool:
        if job.has_result:
            raise QueryFailed("packet too large")
        return await write(store, job, *arguments, **options)

    job, call = await room.begin("a")
    monkeypatch.setattr(Store, "write", refusing)
    call.end(b"1" * 10)
    over = await room.jobs.wait(job.id, 20)
    assert over.state == "failed"
    assert json.loads(over.error or b"")["type"] == "urn:sluice:error:result-unusable"


async def test_a_folder_that_cannot_be_written_to_is_a_failed_job(room: Room) -> None:
    job, call = await room.begin("a")
    (room.folder / ".incoming").rmdir() if (room.folder / ".incoming").exists() else None
    (room.folder / ".incoming").write_bytes(b"in the way")
    call.end(b"1" * (ROW_BYTES + 1))
    over = await room.jobs.wait(job.id, 20)
    assert over.state == "failed"
    assert json.loads(over.error or b"")["type"] == "urn:sluice:error:result-unusable"
