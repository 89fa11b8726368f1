"""``GET /api/aggregate/{view}`` as its clients see it, and the upstreams when a client leaves."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from app.aggregate.routes import aggregate_route
from app.aggregate.service import Aggregate, open_aggregate
from app.flow.drain import DrainGate
from app.web.application import build_application
from app.web.boundary import Boundary
from tests.aggregate.upstreams import (
    Exchange,
    UpstreamServer,
    answering,
    one_source,
    settings_of,
    stall,
    two_sources,
    upstream,
)
from tests.wire.serving import SETTINGS, Server, get, open_server

_LINES, _EVENTS = b"Accept: application/x-ndjson", b"Accept: text/event-stream"


@asynccontextmanager
async def site(folder: Path, text: str, **environment: str) -> AsyncGenerator[tuple[Server, Aggregate]]:
    """A server with these views."""
    async with open_aggregate(settings_of(folder, text, environment)) as aggregate:
        application = build_application([], [aggregate_route(aggregate, 60)], SETTINGS)
        boundary = Boundary(application, DrainGate(), SETTINGS)
        async with trio.open_nursery() as nursery, open_server(boundary) as server:
            nursery.start_soon(boundary.run)
            yield server, aggregate
            nursery.cancel_scope.cancel()


def without_ms(told: Any) -> Any:
    for each in told.values():
        assert each.pop("ms") >= 0
    return told


async def refuse(exchange: Exchange) -> None:
    await exchange.answer(b"{}", 503)


# -- the whole ---------------------------------------------------------------------------------------------------------


async def test_an_answer_is_that_of_the_contract(tmp_path: Path) -> None:
    async with (
        upstream(answering({"n": 1})) as good,
        upstream(refuse) as bad,
        site(tmp_path, two_sources(good.url, bad.url)) as (server, _),
    ):
        answer = await server.ask(get("/api/aggregate/v"))
        assert (answer.status, answer.fields[b"content-type"]) == (200, b"application/json")
        assert (answer.fields[b"cache-control"], answer.fields[b"vary"]) == (b"no-store", b"Accept")
        told = json.loads(answer.body)
        assert list(told) == ["complete", "sources"]
        assert list(told["sources"]["a"]) == ["status", "value", "ms", "attempts", "from"]
        assert told["complete"] is False
        assert without_ms(told["sources"]) == {
            "a": {"status": "fulfilled", "value": {"n": 1}, "attempts": 1, "from": "live"},
            "b": {"status": "rejected", "reason": "status 503", "attempts": 1, "from": "live"},
        }


async def test_sources_are_asked_at_once(tmp_path: Path) -> None:
    there = trio.Event()

    async def wait_for_the_other(exchange: Exchange) -> None:
        if sum(len(each.asked) for each in servers) == 2:
            there.set()
        await there.wait()
        await exchange.answer(b"1")

    servers: list[UpstreamServer] = []
    async with upstream(wait_for_the_other) as one, upstream(wait_for_the_other) as two:
        servers += [one, two]
        async with site(tmp_path, two_sources(one.url, two.url)) as (server, _):
            assert json.loads((await server.ask(get("/api/aggregate/v"))).body)["complete"] is True


async def test_upstreams_learn_whom_they_work_for(tmp_path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    fields = (
        b"X-Request-Id: abc",
        b"traceparent: 00-%b-b7ad6b7169203331-01" % trace.encode(),
        b"tracestate: a=1",
        b"tracestate: v@b=x y, c=3",
        b"Sluice-Deadline: 5",
        b"Authorization: secret",
    )
    text = one_source("{}/x?q={q}", 'headers = {X-Token = "t ${TOKEN}"}', view=["deadline = 7"])
    async with upstream(answering(1)) as up, site(tmp_path, text.replace("{}", up.url), TOKEN="é") as (server, _):
        answer = await server.ask(get("/api/aggregate/v?q=a%20%2F%26&other=1", *fields))
    (asked,) = up.asked
    assert answer.status == 200
    assert asked.target == "/x?q=a%20%2F%26"
    assert asked.fields["host"] == f"127.0.0.1:{up.port}"
    assert (asked.fields["x-request-id"], asked.fields["x-token"]) == ("abc", "t é")
    ours = answer.fields[b"traceparent"].decode()
    assert asked.fields["traceparent"] == ours
    assert ours.split("-")[1] == trace
    assert asked.fields["tracestate"] == "a=1,v@b=x y,c=3"
    assert 4 < float(asked.fields["sluice-deadline"]) < 5
    assert (asked.fields["accept"], asked.fields["accept-encoding"]) == ("application/json", "identity")
    assert "authorization" not in asked.fields


# -- what a client does wrong ------------------------------------------------------------------------------------------


async def test_what_a_view_does_not_need_may_be_given_again_and_again(tmp_path: Path) -> None:
    async with upstream(answering(1)) as up, site(tmp_path, one_source(up.url + "/{id}")) as (server, _):
        assert (await server.ask(get("/api/aggregate/v?tag=a&id=7&tag=b&tag"))).status == 200
        assert [each.target for each in up.asked] == ["/7"]


@pytest.mark.parametrize(
    ("path", "status", "name", "told"),
    [
        ("w?id=1", 404, "unknown-view", "'w'"),
        ("v", 400, "bad-request", "id: is missing"),
        ("v?id=", 400, "bad-request", "id: may not be empty"),
        ("v?id=..", 400, "bad-request", "id: may not be a path's . or .."),
        ("v?id=%2e", 400, "bad-request", "id: may not be a path's . or .."),
        ("v?id=1&id=2", 400, "bad-request", "id: may be given once"),
    ],
)
@pytest.mark.parametrize("fields", [(), (_LINES,), (_EVENTS,)])
async def test_a_request_that_cannot_be_served(
    path: str, status: int, name: str, told: str, fields: Sequence[bytes], tmp_path: Path
) -> None:
    text = one_source("http://127.0.0.1:9/{id}/x")
    async with site(tmp_path, text) as (server, _):
        answer = await server.ask(get(f"/api/aggregate/{path}", *fields))
        assert (answer.status, answer.problem["type"]) == (status, f"urn:sluice:error:{name}")
        assert told in answer.problem["detail"]


# -- what is required --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [(), (_LINES,), (_EVENTS,)])
async def test_what_is_required_and_fails_is_a_problem(fields: Sequence[bytes], tmp_path: Path) -> None:
    text = two_sources("{1}", "{2}", "required = true")
    async with upstream(refuse) as bad, upstream(stall) as slow:
        text = text.replace("{1}", bad.url).replace("{2}", slow.url)
        async with site(tmp_path, text) as (server, _):
            answer = await server.ask(get("/api/aggregate/v", *fields))
            assert (answer.status, answer.problem["type"]) == (502, "urn:sluice:error:upstream-failed")
            assert answer.problem["detail"].endswith("a (status 503)")
            sources = without_ms(answer.problem["sources"])
            assert sources["a"] == {"status": "rejected", "reason": "status 503", "attempts": 1, "from": "live"}
            assert sources["b"]["reason"] == "cancelled"
            await slow.has_no_connection()


async def test_for_time_it_is_504(tmp_path: Path) -> None:
    async with (
        upstream(stall) as slow,
        site(tmp_path, one_source(slow.url, "required = true", view=["deadline = '50ms'"])) as (server, _),
    ):
        answer = await server.ask(get("/api/aggregate/v"))
        assert (answer.status, answer.problem["type"]) == (504, "urn:sluice:error:upstream-timeout")
        assert answer.problem["sources"]["s"]["reason"] == "timeout"


async def test_what_stands_in_is_enough(tmp_path: Path) -> None:
    async with (
        upstream(refuse) as bad,
        site(tmp_path, one_source(bad.url, "required = true", "fallback = 1")) as (server, _),
    ):
        assert (await server.ask(get("/api/aggregate/v"))).status == 200


async def test_a_stream_that_lacks_what_is_required_is_cut(tmp_path: Path) -> None:
    first = trio.Event()

    async def later(exchange: Exchange) -> None:
        await first.wait()
        await exchange.answer(status=503)

    async with upstream(later) as bad, upstream(answering(1)) as good:
        for fields, parse in ((_LINES, _lines), (_EVENTS, _events)):
            first = trio.Event()
            text = two_sources(bad.url, good.url, "required = true")
            async with site(tmp_path, text) as (server, _), server.connect() as client:
                await client.send(get("/api/aggregate/v", fields))
                head = await client.receive()
                assert head.startswith(b"HTTP/1.1 200 ")
                client.buffered = head
                first.set()
                answer = await client.answer()
                assert not answer.complete
                told = parse(answer.body)
                assert [each["source"] for each in told[:2]] == ["b", "a"]
                assert [each["type"] for each in told[2:]] == (
                    ["urn:sluice:error:upstream-failed"] if fields == _EVENTS else []
                )


def _lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


def _events(body: bytes) -> list[Any]:
    return [json.loads(block.partition(b"\ndata: ")[2]) for block in body.split(b"\n\n") if block]


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["lines", "events"])
async def test_each_source_comes_as_it_settles(form: Literal["lines", "events"], tmp_path: Path) -> None:
    seen = trio.Event()

    async def later(exchange: Exchange) -> None:
        await seen.wait()
        await exchange.answer(b'{\n"late":\n1}')

    async with (
        upstream(later) as slow,
        upstream(answering("x")) as quick,
        site(tmp_path, two_sources(slow.url, quick.url)) as (server, _),
        server.connect() as client,
    ):
        await client.send(get("/api/aggregate/v", _LINES if form == "lines" else _EVENTS))
        received = b""
        while b'"b"' not in received:
            received += await client.receive()
        client.buffered = received
        seen.set()
        answer = await client.answer()
        assert answer.complete
        if form == "lines":
            assert answer.fields[b"content-type"] == b"application/x-ndjson"
            told = _lines(answer.body)
        else:
            assert answer.fields[b"content-type"] == b"text/event-stream"
            assert answer.body.count(b"event: source\n") == 2
            assert answer.body.endswith(b'event: complete\ndata: {"complete":true}\n\n')
            told = _events(answer.body)[:2]
        assert [(each["source"], each["value"]) for each in told] == [("b", "x"), ("a", {"late": 1})]


# -- time --------------------------------------------------------------------------------------------------------------


async def test_at_the_requests_deadline_there_is_an_answer_with_what_there_is(tmp_path: Path) -> None:
    async with (
        upstream(stall) as slow,
        upstream(answering(1)) as quick,
        site(tmp_path, two_sources(slow.url, quick.url)) as (server, _),
    ):
        answer = await server.ask(get("/api/aggregate/v", b"Sluice-Deadline: 0.2"))
        assert answer.status == 200
        sources = json.loads(answer.body)["sources"]
        assert (sources["a"]["reason"], sources["b"]["status"]) == ("timeout", "fulfilled")
        await slow.has_no_connection()


# -- who leaves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [(), (_LINES,)])
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_who_leaves_ends_all_calls(how: Any, fields: Sequence[bytes], tmp_path: Path) -> None:
    async with (
        upstream(stall) as one,
        upstream(stall) as two,
        site(tmp_path, two_sources(one.url, two.url)) as (server, aggregate),
    ):
        async with server.connect() as client:
            await client.send(get("/api/aggregate/v", *fields))
            await one.wait(lambda: len(one.asked) == len(two.asked) == 1)
            client.leave(how)
            await one.has_no_connection()
            await two.has_no_connection()
        assert aggregate.statistics().requests == aggregate.statistics().flights == 0


async def test_the_last_of_those_who_share_calls_ends_them(tmp_path: Path) -> None:
    async with upstream(stall) as slow:
        text = one_source(slow.url, view=["single_flight = true"])
        async with site(tmp_path, text) as (server, aggregate), server.connect() as one, server.connect() as two:
            for client in (one, two):
                await client.send(get("/api/aggregate/v"))
            await slow.wait(lambda: aggregate.statistics().requests == 2 and len(slow.asked) == 1)
            assert aggregate.statistics().flights == 1
            one.leave("close")
            await slow.wait(lambda: aggregate.statistics().requests == 1)
            assert (slow.open, len(slow.asked)) == (1, 1)
            two.leave("close")
            await slow.has_no_connection()
            assert len(slow.asked) == 1


async def test_a_head_request_has_no_body(tmp_path: Path) -> None:
    async with upstream(answering(1)) as up, site(tmp_path, one_source(up.url)) as (server, _):
        answer = await server.ask(b"HEAD /api/aggregate/v HTTP/1.1\r\nHost: sluice\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"")
