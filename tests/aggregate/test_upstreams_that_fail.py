"""Each way in which an upstream fails, on real sockets: what is told of it, and that its connection is closed."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import trio

from app.aggregate.service import Aggregate
from tests.aggregate.upstreams import Exchange, answering, one_source, request, source, stall, upstream, views


async def test_an_answer_is_the_value(tmp_path: Path) -> None:
    async with upstream(answering({"a": [1, 2.50]})) as server, views(tmp_path, one_source(server.url)) as aggregate:
        told = await source(aggregate)
        assert told == {"status": "fulfilled", "value": {"a": [1, 2.5]}, "attempts": 1, "from": "live"}


async def test_connections_are_used_again(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server, views(tmp_path, one_source(server.url)) as aggregate:
        for _ in range(5):
            await source(aggregate)
        assert (len(server.asked), server.opened) == (5, 1)


async def test_one_that_refuses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with views(tmp_path, one_source(f"http://127.0.0.1:{port}/")) as aggregate:
        told = await source(aggregate)
        assert told == {"status": "rejected", "reason": "refused", "attempts": 1, "from": "live"}


async def test_one_that_accepts_and_stalls(tmp_path: Path) -> None:
    async with upstream(stall) as server, views(tmp_path, one_source(server.url, "timeout = '50ms'")) as aggregate:
        told = await source(aggregate)
        assert told == {"status": "rejected", "reason": "timeout", "attempts": 1, "from": "live"}
        await server.has_no_connection()


async def test_one_that_sends_a_byte_at_a_time(tmp_path: Path) -> None:
    async def trickle(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            await exchange.send(b"1")
            await trio.sleep(0.01)

    async with upstream(trickle) as server, views(tmp_path, one_source(server.url, "timeout = '100ms'")) as aggregate:
        assert (await source(aggregate))["reason"] == "timeout"
        await server.has_no_connection()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Ty",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[1,",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    ],
    ids=["nothing", "head", "body", "chunks", "no HTTP"],
)
async def test_one_that_cuts(sent: bytes, tmp_path: Path) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.send(sent)
        await exchange.stream.aclose()

    async with upstream(cut) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert (await source(aggregate))["reason"] == "cut"
        await server.has_no_connection()


@pytest.mark.parametrize("length", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
async def test_one_that_sends_a_gigabyte(length: str, tmp_path: Path) -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode())
        piece = b" " * 100_000
        for _ in range(10_000):
            await exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in length else piece)
            sent += len(piece)

    async with upstream(flood) as server, views(tmp_path, one_source(server.url, "max_bytes = '64KiB'")) as aggregate:
        assert (await source(aggregate))["reason"] == "too-large"
        await server.has_no_connection()
    assert sent < 50_000_000  # what the buffers of both sides hold


@pytest.mark.parametrize(
    ("body", "kind", "fields"),
    [
        (b"<p>", "text/html", ()),
        (b"{}", "text/plain", ()),
        (b"{", "application/json", ()),
        (b"", "application/json", ()),
        (b'"\xff"', "application/json", ()),
        (b"[" * 100_000, "application/json", ()),
        (b"{}", "application/json", ("Content-Encoding: gzip",)),
    ],
)
async def test_one_of_the_wrong_type(body: bytes, kind: str, fields: tuple[str, ...], tmp_path: Path) -> None:
    async def wrong(exchange: Exchange) -> None:
        await exchange.answer(body, 200, *fields, kind=kind)

    async with upstream(wrong) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert (await source(aggregate))["reason"] == "not-json"


@pytest.mark.parametrize("status", [400, 404, 418, 500, 503, 304])
async def test_one_that_says_no(status: int, tmp_path: Path) -> None:
    async with upstream(answering({}, status)) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert (await source(aggregate))["reason"] == f"status {status}"


async def test_a_refusal_does_not_cost_its_connection(tmp_path: Path) -> None:
    async with upstream(answering({}, 404)) as server, views(tmp_path, one_source(server.url)) as aggregate:
        for _ in range(3):
            await source(aggregate)
        assert (len(server.asked), server.opened) == (3, 1)


async def test_one_that_closes_idle_connections_is_asked_anew(tmp_path: Path) -> None:
    async def once(exchange: Exchange) -> None:
        if exchange.number == 2:  # it came on the first connection, which is closed just now
            await exchange.stream.aclose()
        else:
            await exchange.answer(b"%d" % exchange.number)

    async with upstream(once) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert [(await source(aggregate))["value"] for _ in range(2)] == [1, 3]


async def test_no_content_is_null(tmp_path: Path) -> None:
    async def nothing(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with upstream(nothing) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert [(await source(aggregate))["value"] for _ in range(3)] == [None] * 3
        assert (len(server.asked), server.opened) == (3, 1)


@pytest.mark.parametrize("body", [b"", b"<p>moved</p>"])
async def test_a_redirect_does_not_cost_its_connection(body: bytes, tmp_path: Path) -> None:
    async def behave(exchange: Exchange) -> None:
        if exchange.target == "/":
            await exchange.answer(body, 302, "Location: /moved", kind="text/html")
        else:
            await exchange.answer(b"1")

    async with upstream(behave) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert [(await source(aggregate))["value"] for _ in range(3)] == [1] * 3
        assert (len(server.asked), server.opened) == (6, 1)


async def test_a_redirect_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    async def behave(exchange: Exchange) -> None:
        if exchange.target == "/":
            await exchange.send(b"HTTP/1.1 302 Found\r\nLocation: /moved\r\nContent-Length: 9\r\n\r\n")
            await stall(exchange)
        else:
            await exchange.answer(b"1")

    async with upstream(behave) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert (await source(aggregate))["value"] == 1
        assert server.opened == 2


async def test_values_stay_as_they_are_written(tmp_path: Path) -> None:
    body = b'{"data": {"items": [{"n": 12345678901234567890.10, "e": 1E400},\n\n {"\\u00e9": "\\n"}]}}'

    async def precise(exchange: Exchange) -> None:
        await exchange.answer(body)

    async with (
        upstream(precise) as server,
        views(tmp_path, one_source(server.url, "select = 'data.items'")) as aggregate,
    ):
        (one,) = (await _settled(aggregate)).values()
        assert one == b'[{"n":12345678901234567890.10,"e":1E400},{"\\u00e9":"\\n"}]'


async def _settled(aggregate: Aggregate) -> dict[str, bytes | None]:
    async with aggregate.ask(request()) as asked:
        return {one.source: one.value async for one in asked.settling()}


async def test_what_is_selected_may_not_be_there(tmp_path: Path) -> None:
    async with (
        upstream(answering({"a": []})) as server,
        views(tmp_path, one_source(server.url, "select = 'a[0]'")) as aggregate,
    ):
        assert (await source(aggregate))["reason"] == "no-match"
        assert json.dumps(aggregate.statistics().sources["v"]["s"].failures) == "1"
