"""Jobs as their clients see them: through the application and its boundary."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import app.jobs.feed
import app.jobs.service
from app.errors import TaskFailed
from app.jobs.job import INLINE_BYTES
from app.jobs.results import ROW_BYTES
from app.jobs.routes import jobs_blueprint
from app.settings import DatabaseSettings
from app.storage.database import Database
from app.web.application import build_application
from app.web.boundary import Boundary
from app.wire.asgi import PEER, Message
from tests.jobs.conftest import Room, open_room
from tests.jobs.engine import Engine
from tests.web.wire import SETTINGS, Wire, scope

_MISSING = "0" * 32


@dataclass
class Site:
    """The application over a room, for clients in memory."""

    room: Room
    boundary: Boundary

    async def ask(self, path: str, method: str = "GET", wire: Wire | None = None, **fields: str) -> Wire:
        """The whole answer."""
        wire = wire or Wire()
        names = {name.replace("_", "-").lower(): value for name, value in fields.items()}
        path, _, query = path.partition("?")
        asked = scope(
            names,
            method=method,
            path=path,
            raw_path=path.encode(),
            query_string=query.encode(),
            scheme="http",
            extensions={PEER: wire} if wire.tells else {},
        )
        with trio.fail_after(30), trio.CancelScope() as wire.scope:
            await self.boundary(asked, wire.receive, wire.send)
        return wire


@asynccontextmanager
async def open_site(room: Room, deadline: float = 60.0) -> AsyncGenerator[Site]:
    server = replace(SETTINGS, request_deadline=deadline)
    application = build_application([jobs_blueprint(room.jobs, room.gate)], [], server)
    boundary = Boundary(application, room.gate, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boundary.run)
        yield Site(room, boundary)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["our wire", "stock"])
def any_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that tell of a client's end at once, and such that tell only whoever asks."""
    monkeypatch.setattr(Wire, "tells", request.param == "our wire")


@pytest.fixture
def database_settings(sqlite_settings: DatabaseSettings) -> DatabaseSettings:
    """What HTTP makes of a job does not depend on where it is kept."""
    return sqlite_settings


@pytest.fixture
async def site(room: Room) -> AsyncIterator[Site]:
    async with open_site(room) as opened:
        yield opened


def shown(wire: Wire) -> Any:
    assert wire.fields[b"content-type"] == b"application/json"
    assert wire.fields[b"cache-control"] == b"no-store"
    return json.loads(wire.body)


def events(wire: Wire) -> list[tuple[int, Any]]:
    """The ids and data of the events that came."""
    found: list[tuple[int, Any]] = []
    for block in wire.body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            found.append((int(lines["id"]), json.loads(lines["data"])))
    return found


class Reader(Wire):
    """A client that is told of each message that comes."""

    def __init__(self) -> None:
        super().__init__()
        self.came = trio.Event()
        self.ended = trio.Event()

    async def send(self, message: Message) -> None:
        await super().send(message)
        self.came.set()
        self.came = trio.Event()

    async def until(self, enough: Callable[[], bool]) -> None:
        with trio.fail_after(20):
            while not enough():
                await self.came.wait()

    async def states(self, count: int) -> list[str]:
        """Of the events, once there are so many."""
        await self.until(lambda: len(events(self)) >= count)
        return [data["state"] for _, data in events(self)]


class SlowReader(Wire):
    """A client that takes the first of a body, and then nothing until it reads again."""

    def __init__(self) -> None:
        super().__init__()
        self.again = trio.Event()

    async def send(self, message: Message) -> None:
        await super().send(message)
        if message.get("body"):
            await self.again.wait()


@asynccontextmanager
async def watching(site: Site, path: str, **fields: str) -> AsyncGenerator[Reader]:
    """A client that watches a job, from the time when its answer has begun; the end of the block ends it."""
    client = Reader()

    async def run() -> None:
        await site.ask(path, wire=client, **fields)
        client.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await client.until(lambda: len(client.sent) > 1)
        yield client
        nursery.cancel_scope.cancel()


# -- one job -----------------------------------------------------------------------------------------------------------


async def test_a_job_is_shown(site: Site) -> None:
    job, call = await site.room.begin("a")
    queued = await site.ask(f"/api/jobs/{job.id}")
    assert queued.status == 200
    assert shown(queued) == {
        "id": job.id,
        "task": "task",
        "state": "queued",
        "progress": {"done": 0, "total": None, "message": ""},
        "created": shown(queued)["created"],
        "started": None,
        "finished": None,
        "result": None,
        "result_url": None,
        "error": None,
    }
    call.end(b'{"a":[1,2]}')
    await site.room.jobs.wait(job.id, 20)
    over = shown(await site.ask(f"/api/jobs/{job.id}"))
    assert (over["state"], over["result"], over["error"]) == ("succeeded", {"a": [1, 2]}, None)
    result = await site.ask(over["result_url"])
    assert (result.status, shown(result)) == (200, {"a": [1, 2]})


@pytest.mark.parametrize("size", [INLINE_BYTES + 1, ROW_BYTES + 1])
async def test_a_large_result_has_to_be_asked_for(site: Site, size: int) -> None:
    job, call = await site.room.begin("a")
    result = b'"' + b"x" * size + b'"'
    call.end(result)
    await site.room.jobs.wait(job.id, 20)
    over = shown(await site.ask(f"/api/jobs/{job.id}"))
    assert (over["state"], over["result"]) == ("succeeded", None)
    got = await site.ask(over["result_url"])
    assert (got.status, got.complete, got.body) == (200, True, result)
    head = await site.ask(over["result_url"], "HEAD")
    assert (head.status, head.fields[b"content-length"]) == (200, str(len(result)).encode())


@pytest.mark.parametrize("rest", ["", "/result", "/events"])
@pytest.mark.parametrize("id", [_MISSING, "x", "%00", "A" * 32])
async def test_an_unknown_job_is_told_as_such(site: Site, id: str, rest: str) -> None:
    missing = await site.ask(f"/api/jobs/{id}{rest}")
    assert (missing.status, missing.problem["type"]) == (404, "urn:sluice:error:job-not-found")
    assert (await site.ask(f"/api/jobs/{id}", "DELETE")).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_other_methods_are_refused(site: Site, method: str) -> None:
    refused = await site.ask(f"/api/jobs/{_MISSING}", method)
    assert refused.status == 405
    assert {"GET", "DELETE"} <= set(refused.fields[b"allow"].decode().split(", "))


# -- no result ---------------------------------------------------------------------------------------------------------


async def test_a_result_that_is_not_there_yet_is_a_conflict(site: Site) -> None:
    job, call = await site.room.begin("a")
    for state in ("queued", "running"):
        await site.room.seen(job, state)
        early = await site.ask(f"/api/jobs/{job.id}/result")
        assert (early.status, early.problem["type"]) == (409, "urn:sluice:error:job-not-finished")
        assert early.problem["state"] == state
        assert early.fields[b"retry-after"] == b"1"
        call.start()


async def test_a_result_that_will_never_be_there_says_why(site: Site) -> None:
    job, call = await site.room.begin("a")
    call.end(TaskFailed("no", members={"exception": "ValueError"}))
    await site.room.jobs.wait(job.id, 20)
    never = await site.ask(f"/api/jobs/{job.id}/result")
    assert (never.status, never.problem["state"], never.problem["detail"]) == (409, "failed", "the job has failed")
    cause = {"type": "urn:sluice:error:task-failed", "title": "Task failed", "status": 500, "detail": "no"}
    assert never.problem["cause"] == cause | {"exception": "ValueError"}
    assert b"retry-after" not in never.fields
    assert shown(await site.ask(f"/api/jobs/{job.id}"))["error"] == never.problem["cause"]


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_delete_cancels_and_the_job_says_so(site: Site) -> None:
    job, call = await site.room.begin("a")
    call.start()
    for _ in range(2):
        deleted = await site.ask(f"/api/jobs/{job.id}", "DELETE")
        assert (deleted.status, deleted.body) == (204, b"")
        assert shown(await site.ask(f"/api/jobs/{job.id}"))["state"] == "cancelled"
    assert call.cancelled
    assert (await site.ask(f"/api/jobs/{job.id}/result")).problem["detail"] == "the job has been cancelled"


async def test_delete_of_what_is_over_keeps_it(site: Site) -> None:
    job, call = await site.room.begin("a")
    call.end(b"1")
    await site.room.jobs.wait(job.id, 20)
    before = shown(await site.ask(f"/api/jobs/{job.id}"))
    assert (await site.ask(f"/api/jobs/{job.id}", "DELETE")).status == 204
    assert shown(await site.ask(f"/api/jobs/{job.id}")) == before


async def test_what_does_not_end_in_time_is_accepted(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.jobs.service, "_CANCEL_SECONDS", 0.1)
    async with open_room(database, tmp_path, Engine(stubborn=True)) as room, open_site(room) as site:
        job, call = await room.begin("a")
        deleted = await site.ask(f"/api/jobs/{job.id}", "DELETE")
        assert (deleted.status, shown(deleted)["state"]) == (202, "queued")
        assert deleted.fields[b"location"] == f"/api/jobs/{job.id}".encode()
        call.end(b"1")


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("any_server")
async def test_each_state_comes_as_an_event_and_the_last_one_ends_it(site: Site) -> None:
    job, call = await site.room.begin("a")
    async with watching(site, f"/api/jobs/{job.id}/events") as client:
        assert client.fields[b"content-type"] == b"text/event-stream"
        assert await client.states(1) == ["queued"]
        call.start()
        assert await client.states(2) == ["queued", "running"]
        call.tell(1, 2, "half")
        assert await client.states(3) == ["queued", "running", "running"]
        call.end(b"7")
        await client.ended.wait()
    assert client.complete
    came = events(client)
    assert [data["state"] for _, data in came] == ["queued", "running", "running", "succeeded"]
    assert came[2][1]["progress"] == {"done": 1, "total": 2, "message": "half"}
    assert came[3][1] == shown(await site.ask(f"/api/jobs/{job.id}"))
    ids = [id for id, _ in came]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("how", ["field", "query"])
async def test_what_was_seen_does_not_come_again(site: Site, how: str) -> None:
    job, call = await site.room.begin("a")
    call.start()
    running = await site.room.seen(job, "running")
    query, fields = f"?last_event_id={running.revision}", {"Last_Event_ID": str(running.revision)}
    path = f"/api/jobs/{job.id}/events"
    async with watching(site, path + (query if how == "query" else ""), **(fields if how == "field" else {})) as client:
        assert events(client) == []
        call.end(b"1")
        await client.ended.wait()
    ((last, over),) = events(client)
    assert over["state"] == "succeeded"
    again = await site.ask(path, Last_Event_ID=str(last))
    assert (again.status, again.body) == (204, b"")
    missed = await site.ask(path, Last_Event_ID=str(running.revision))
    assert [id for id, _ in events(missed)] == [last]


@pytest.mark.parametrize("id", ["999999", "x", "-1", "1" * 400, "٣", "", "1e3"])
async def test_an_id_that_is_none_of_the_jobs_counts_for_nothing(site: Site, id: str) -> None:
    job, call = await site.room.begin("a")
    call.end(b"1")
    await site.room.jobs.wait(job.id, 20)
    came = await site.ask(f"/api/jobs/{job.id}/events?last_event_id={id}")
    assert [data["state"] for _, data in events(came)] == ["succeeded"]


@pytest.mark.usefixtures("any_server")
async def test_a_feed_outlives_the_request_deadline_but_not_its_clients(room: Room) -> None:
    async with open_site(room, deadline=0.2) as site:
        job, call = await room.begin("a")
        cut = await site.ask(f"/api/jobs/{job.id}/events", Sluice_Deadline="0.1")
        assert not cut.complete
        async with watching(site, f"/api/jobs/{job.id}/events") as client:
            with trio.move_on_after(0.7):
                await client.ended.wait()
            assert not client.ended.is_set()
            call.end(b"1")
            await client.ended.wait()
        assert client.complete
        assert [data["state"] for _, data in events(client)] == ["queued", "succeeded"]


@pytest.mark.usefixtures("any_server")
async def test_a_quiet_feed_gives_signs_of_life(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.jobs.feed, "HEARTBEAT_SECONDS", 0.01)
    job, call = await site.room.begin("a")
    async with watching(site, f"/api/jobs/{job.id}/events") as client:
        await client.until(lambda: client.body.count(b"\n: still there\n\n") >= 3)
        call.end(b"1")
        await client.ended.wait()
    assert [data["state"] for _, data in events(client)] == ["queued", "succeeded"]


@pytest.mark.usefixtures("any_server")
async def test_a_drain_ends_feeds_politely_and_lets_the_job_finish(site: Site) -> None:
    job, call = await site.room.begin("a")
    async with watching(site, f"/api/jobs/{job.id}/events") as client:
        site.room.gate.start()
        await client.ended.wait()
    assert client.complete
    assert client.body.endswith(b"\n\nretry: 1000\n\n")
    call.end(b"1")
    with trio.fail_after(20):
        await site.room.gate.wait_idle()
    assert shown(await site.ask(f"/api/jobs/{job.id}"))["state"] == "succeeded"


@pytest.mark.usefixtures("any_server")
async def test_a_client_that_leaves_changes_nothing_for_the_job(site: Site) -> None:
    job, call = await site.room.begin("a")
    async with watching(site, f"/api/jobs/{job.id}/events") as client:
        client.leave()
        await client.ended.wait()
    assert site.room.gate.statistics().running == 1
    call.end(b"1")
    assert (await site.room.jobs.wait(job.id, 20)).state == "succeeded"


@pytest.mark.usefixtures("any_server")
async def test_who_does_not_read_gets_the_newest_state_only(site: Site) -> None:
    job, call = await site.room.begin("a")
    call.start()
    await site.room.seen(job, "running")
    wire = SlowReader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(site.ask, f"/api/jobs/{job.id}/events", wire=wire))
        seen = job
        for done in range(1, 4):
            call.tell(done)
            while seen.progress.done != done:
                seen = await site.room.jobs.later(seen)
        call.end(b"1")
        await site.room.jobs.wait(job.id, 20)
        wire.again.set()
    assert [data["state"] for _, data in events(wire)] == ["running", "succeeded"]
