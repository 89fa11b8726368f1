"""What one client may send and hold, and for how long; and how many there may be."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import structlog
import trio

from app.flow.spans import recording
from app.telemetry.metrics import metrics
from app.telemetry.snapshots import Distribution
from app.wire.asgi import Receive, Scope, Send
from tests.flow.test_spans import Kept
from tests.wire.serving import (
    GET,
    GET_CLOSE,
    HOST,
    Answer,
    Client,
    answer,
    connect,
    echo,
    get,
    open_server,
    over_both,
    post,
)


class Count:
    """An application that counts what it serves."""

    def __init__(self) -> None:
        self.served: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served.append(scope["path"])
        await answer(send)


def _assert_refused(answered: Answer, status: int, name: str) -> None:
    assert answered.status == status
    assert answered.problem["type"] == f"urn:sluice:error:{name}"
    assert answered.problem["status"] == status
    assert re.fullmatch(r"[0-9a-f]{16}", answered.problem["request_id"])
    assert answered.fields[b"x-request-id"].decode() == answered.problem["request_id"]
    assert answered.closes


# -- heads -------------------------------------------------------------------------------------------------------------


@over_both
@pytest.mark.parametrize(
    ("bad", "status", "name"),
    [
        (get("/", b"X-Long: " + b"x" * 2000), 431, "head-too-large"),
        (get("/", *[b"X-Many: 1"] * 20), 431, "head-too-large"),
        (get("/" + "x" * 2000), 414, "target-too-long"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X-Field : 1\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, "version-not-supported"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "not-implemented"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad-request"),
    ],
    ids=["a long field", "many fields", "a long target", "no host", "space", "version", "coding", "TLS"],
)
async def test_what_is_refused_is_answered_and_nothing_after_it_is_served(
    bad: bytes, status: int, name: str, tls: bool
) -> None:
    app = Count()
    with structlog.testing.capture_logs() as logs:
        async with open_server(app, tls=tls, max_head_bytes=1024, max_head_fields=10) as server:
            async with server.connect() as client:
                await client.send(GET + bad + get("/more") * 3)
                assert (await client.answer()).status == 200
                answered = await client.answer()
                _assert_refused(answered, status, name)
                await client.send(get("/more"))
                assert await client.ending() == "fin"
            assert (await server.ask(GET_CLOSE)).status == 200
    assert app.served == ["/", "/"]
    (line,) = [each for each in logs if each["event"] == "request refused"]
    assert (line["status"], line["error"], line["client"]) == (status, name, "127.0.0.1")
    assert line["request_id"] == answered.problem["request_id"]


async def test_a_head_as_large_as_allowed_is_served() -> None:
    head = get("/", b"X-Long: ")
    async with open_server(echo, max_head_bytes=1024, max_head_fields=10) as server, server.connect() as client:
        assert (await client.ask(get("/", b"X-Long: " + b"x" * (1024 - len(head))))).status == 200
        assert (await client.ask(get("/", *[b"X-Many: 1"] * 9))).status == 200


async def test_a_refused_client_that_goes_on_sending_gets_the_answer() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.send(b"no request\r\n\r\n" + bytes(4 * 1024 * 1024))
        _assert_refused(await client.answer(), 400, "bad-request")
        assert await client.ending() == "fin"


# -- time --------------------------------------------------------------------------------------------------------------


async def _drip(client: Client, data: bytes, seconds: float) -> None:
    for at in range(len(data)):
        await client.send(data[at : at + 1])
        await trio.sleep(seconds)


@over_both
@pytest.mark.parametrize("before", ["the first", "a later one", "pipelined"])
async def test_a_head_that_comes_slowly_is_given_up(before: str, tls: bool) -> None:
    """However often a byte of it comes."""
    limit = 0.3
    app = Count()
    async with open_server(app, tls=tls, header_timeout=limit) as server, server.connect() as client:
        if before == "a later one":
            await client.ask(GET)
        if before == "pipelined":
            await client.send(GET + b"GET /slow")
            await client.answer()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drip, client, b"GET /slow HTTP/1.1\r\nX-Long: " + b"x" * 1000, 0.05)
            answered = await client.answer()
            assert limit - 0.05 <= trio.current_time() - began < limit + 0.3
            _assert_refused(answered, 408, "request-timeout")
            assert await client.ending() == "fin"
            nursery.cancel_scope.cancel()
    assert "/slow" not in app.served


async def test_a_head_in_time_is_not_given_up_later() -> None:
    async with open_server(echo, header_timeout=0.1) as server, server.connect() as client:
        for _ in range(2):
            await client.send(GET[:5])
            await trio.sleep(0.05)
            await client.send(GET[5:])
            assert (await client.answer()).status == 200
        await trio.sleep(0.2)
        assert (await client.ask(GET)).status == 200
        assert not server.connections.heads._due


async def test_the_limit_of_a_head_is_none_of_its_body_or_its_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(0.15)
        await echo(scope, receive, send)

    async with open_server(app, header_timeout=0.1, idle_timeout=0.1) as server, server.connect() as client:
        await client.send(post(length=4))
        await trio.sleep(0.15)
        await client.send(b"body")
        assert (await client.answer("POST")).body == b"POST / body"


@over_both
@pytest.mark.parametrize("before", [b"", b"\r\n", GET], ids=["says nothing", "an empty line", "after a request"])
async def test_an_idle_connection_ends_silently(before: bytes, tls: bool) -> None:
    limit = 0.2
    async with open_server(echo, tls=tls, idle_timeout=limit) as server, server.connect() as client:
        began = trio.current_time()
        await client.send(before)
        if before == GET:
            await client.answer()
        assert await client.ending() == "fin"
        assert limit <= trio.current_time() - began < limit + 0.3
        await server.all_gone()


async def test_idle_connections_end_each_in_its_time() -> None:
    """One that sends empty lines meanwhile holds up no other's end."""
    limit = 0.3
    async with open_server(echo, idle_timeout=limit) as server, server.connect() as first, server.connect() as second:
        began = trio.current_time()
        await trio.sleep(0.2)
        await first.send(b"\r\n")
        assert await second.ending() == "fin"
        assert trio.current_time() - began < limit + 0.15
        assert await first.ending() == "fin"


async def test_a_request_just_before_the_end_of_the_idle_time_starts_it_anew() -> None:
    async with open_server(echo, idle_timeout=0.2) as server, server.connect() as client:
        for _ in range(3):
            await trio.sleep(0.12)
            assert (await client.ask(GET)).status == 200


async def test_a_handshake_that_does_not_come_is_given_up() -> None:
    async with open_server(echo, tls=True, header_timeout=0.2) as server, await connect(server.port) as raw:
        assert await raw.receive_some(1) == b""


# -- how many ----------------------------------------------------------------------------------------------------------


async def test_one_connection_too_many_is_refused_and_the_others_go_on() -> None:
    async with open_server(echo, max_connections=3) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connect()) for _ in range(3)]
        for client in clients:
            assert (await client.ask(GET)).status == 200
        async with server.connect() as late:
            await late.send(GET)
            answered = await late.answer()
            _assert_refused(answered, 503, "overloaded")
            assert int(answered.fields[b"retry-after"]) >= 1
            assert await late.ending() == "fin"
        for client in clients:
            assert (await client.ask(GET)).status == 200
        clients[0].leave("close")
        while server.connections.count > 2:  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.002)
        assert (await server.ask(GET)).status == 200


async def test_who_is_refused_need_not_say_anything() -> None:
    async with open_server(echo, max_connections=1) as server, server.connect() as one, server.connect() as late:
        await one.ask(GET)
        _assert_refused(await late.answer(), 503, "overloaded")
        assert await late.ending() == "fin"


async def test_over_tls_one_too_many_is_not_worth_a_handshake() -> None:
    def shed() -> float:
        requests = metrics.snapshot().get("http_requests_total", {})
        count = requests.get(("other", "unmatched", "503", "overloaded"), 0.0)
        assert not isinstance(count, Distribution)
        return count

    before = shed()
    async with open_server(echo, tls=True, max_connections=1) as server, server.connect() as one:
        await one.ask(GET)
        async with await connect(server.port) as raw:
            assert await raw.receive_some(1) == b""
        assert (await one.ask(GET)).status == 200
    assert shed() == before + 1


async def test_the_refused_are_not_counted_for_ever() -> None:
    async with open_server(echo, max_connections=1) as server:
        for _ in range(20):
            async with server.connect() as one, server.connect() as late:
                assert (await one.ask(GET)).status == 200
                assert (await late.answer()).status == 503
            await server.all_gone()


async def test_who_is_refused_is_told_by_log_metrics_and_traces() -> None:
    kept, told = Kept(), Counter[tuple[str, ...]]()

    def refused(by: int) -> None:
        for labels, value in metrics.snapshot().get("http_requests_total", {}).items():
            if labels[:2] == ("other", "unmatched") and not isinstance(value, Distribution):
                told[labels[2:]] += by * int(value)

    refused(-1)
    with recording(kept), structlog.testing.capture_logs() as logs:
        async with open_server(echo, max_connections=1) as server, server.connect() as one:
            assert (await one.ask(GET)).status == 200
            async with server.connect() as late:
                assert (await late.answer()).status == 503
            await one.send(b"no request\r\n\r\n")
            assert (await one.answer()).status == 400
    refused(1)
    assert +told == {("503", "overloaded"): 1, ("400", "client_error"): 1}
    lines = [line for line in logs if line["event"] == "request refused"]
    assert [(line["status"], line["outcome"]) for line in lines] == [(503, "overloaded"), (400, "client_error")]
    assert [line["client"] for line in lines] == ["127.0.0.1"] * 2
    assert [line["request_id"] for line in lines] == [one.attributes["sluice.request_id"] for one in kept.spans]
    assert [line["trace_id"] for line in lines] == [f"{one.tree.trace_id:032x}" for one in kept.spans]
    said = [(one.name, one.attributes["sluice.outcome"], one.is_error) for one in kept.spans]
    assert said == [("HTTP", "overloaded", True), ("HTTP", "client_error", False)]
