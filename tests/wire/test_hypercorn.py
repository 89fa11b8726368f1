"""The adapter to Hypercorn, in this process, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import hypercorn.protocol as hypercorn_protocol
import hypercorn.trio.run as hypercorn_run
import pytest
import structlog
import trio
from hypercorn.config import Config
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.tcp_server import TCPServer

from app.flow.drain import DrainGate
from app.wire.drain import Drain
from app.wire.hypercorn import hypercorn_values, install, installation, serve
from app.wire.hypercorn.client_connection import ClientConnection
from tests.wire.serving import GET_CLOSE, SETTINGS, connect, open_server

type _Message = MutableMapping[str, Any]
type _Send = Callable[[_Message], Awaitable[None]]
type _Get = Callable[[str, _Send], Awaitable[None]]

_CHUNK = bytes(128 * 1024)
# More than the socket buffers of both sides hold.
_CHUNKS = 256


@pytest.fixture(autouse=True)
def _stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the adapter puts in the place of Hypercorn's own is taken out again after each test."""
    monkeypatch.setattr(hypercorn_run, "TCPServer", TCPServer)
    monkeypatch.setattr(hypercorn_run, "worker_serve", hypercorn_run.worker_serve)
    monkeypatch.setattr(hypercorn_protocol, "H2Protocol", H2Protocol)


def _application(get: _Get) -> Callable[..., Awaitable[None]]:
    async def application(scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send) -> None:
        async with trio.open_nursery() as nursery:
            finishing = trio.Event()

            async def watched_send(message: _Message) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    finishing.set()  # the end of an answer looks like a disconnect
                await send(message)

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                if not finishing.is_set():
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await get(scope["path"], watched_send)
            nursery.cancel_scope.cancel()

    return application


async def _send_all(send: _Send, chunk: bytes, count: int) -> None:
    length = str(len(chunk) * count).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for _ in range(count):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def _open_server(get: _Get, *, tls: bool = False, **settings: Any) -> AsyncGenerator[int]:
    """The port at which ``get`` answers."""
    async with open_server(_application(get), tls=tls, **settings) as server:
        yield server.port


async def _read_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = bytearray()
    try:
        while data := await stream.receive_some(1 << 18):
            received += data
    except trio.BrokenResourceError:
        pass  # a reset is an end too
    return bytes(received)


async def _ask(port: int, request: bytes) -> bytes:
    async with await connect(port) as client:
        await client.send_all(request)
        return await _read_all(client)


async def _answer_briefly(_path: str, send: _Send) -> None:
    await _send_all(send, b"hello", 1)


async def _assert_it_serves(port: int) -> None:
    assert (await _ask(port, GET_CLOSE)).endswith(b"hello")


# -- errors of one connection ------------------------------------------------------------------------------------------


async def test_an_error_of_one_connection_ends_that_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: TCPServer) -> None:
        raise RuntimeError("met by one connection")

    async with _open_server(_answer_briefly) as port, await connect(port) as other:
        await _assert_it_serves(port)
        with monkeypatch.context() as patched, structlog.testing.capture_logs() as logs:
            patched.setattr(ClientConnection, "_open", fail)
            assert await _ask(port, GET_CLOSE) == b""
        assert [line["event"] for line in logs] == ["connection failed"]
        await other.send_all(GET_CLOSE)
        assert (await _read_all(other)).endswith(b"hello")


async def test_a_bad_chunk_is_answered_once_and_ends_its_connection_only() -> None:
    request = b"POST / HTTP/1.1\r\nHost: sluice\r\nTransfer-Encoding: chunked\r\n\r\n3x\r\nabc\r\n0\r\n\r\n" + GET_CLOSE
    async with _open_server(_answer_briefly) as port:
        with structlog.testing.capture_logs():  # its traceback takes its time
            for _ in range(20):
                assert (await _ask(port, request)).count(b"HTTP/1.1 ") <= 1
        await _assert_it_serves(port)


# -- writes ------------------------------------------------------------------------------------------------------------


async def test_a_client_that_never_reads_is_cut_after_the_stall_limit() -> None:
    ended = trio.Event()

    async def get(path: str, send: _Send) -> None:
        try:
            await _send_all(send, _CHUNK, _CHUNKS if path == "/large" else 1)
        finally:
            ended.set()

    with structlog.testing.capture_logs() as logs:
        async with _open_server(get, stall_timeout=0.3) as port, await connect(port) as client:
            await client.send_all(b"GET /large HTTP/1.1\r\nHost: sluice\r\n\r\n")
            await ended.wait()
            assert len(await _read_all(client)) < len(_CHUNK) * _CHUNKS
    assert {"event": "connection stalled", "seconds": 0.3, "log_level": "info"} in logs


async def test_a_client_that_reads_slowly_outlives_the_stall_limit() -> None:
    limit = 1.0

    async def get(_: str, send: _Send) -> None:
        await _send_all(send, _CHUNK, 64)

    async with _open_server(get, stall_timeout=limit) as port, await connect(port) as client:
        await client.send_all(GET_CLOSE)
        began, received = trio.current_time(), 0
        while trio.current_time() < began + 2 * limit:
            received += len(await client.receive_some(64 * 1024))
            await trio.sleep(limit / 20)
        assert received < len(_CHUNK) * 64
        assert received + len(await _read_all(client)) > len(_CHUNK) * 64


async def test_a_write_is_ended_by_a_deadline_and_nothing_follows_it() -> None:
    ended = trio.Event()

    async def get(_: str, send: _Send) -> None:
        try:
            with trio.move_on_after(0.2):
                await _send_all(send, _CHUNK, _CHUNKS)
        finally:
            ended.set()

    async with _open_server(get) as port, await connect(port) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nHost: sluice\r\n\r\n")
        await ended.wait()
        received = await _read_all(client)
    assert received.count(b"HTTP/1.1 ") <= 1  # none where the machine was so slow that not even the head got out
    assert len(received) < len(_CHUNK) * _CHUNKS


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "never reads"])
async def test_over_tls_an_answer_comes_whole_and_a_stalled_one_is_cut(reads: bool) -> None:
    ended = trio.Event()

    async def get(_: str, send: _Send) -> None:
        try:
            await _send_all(send, _CHUNK, _CHUNKS)
        finally:
            ended.set()

    async with open_server(_application(get), tls=True, stall_timeout=5 if reads else 0.3) as server:
        async with server.connect() as client:
            await client.send(GET_CLOSE)
            if not reads:
                await ended.wait()
            received = await client.rest()
        assert (len(received) > len(_CHUNK) * _CHUNKS) == reads


# -- an application that ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_server_ends_with_its_application(raises: bool, busy: bool) -> None:
    """Whatever runs: the rooms that it needs are gone."""
    ends, up, begun = trio.Event(), trio.Event(), trio.Event()

    async def application(scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send) -> None:
        if scope["type"] != "lifespan":
            begun.set()
            await trio.sleep_forever()
        await receive()
        await send({"type": "lifespan.startup.complete"})
        up.set()
        await ends.wait()
        if raises:
            raise ValueError("a bug of the application's")

    config = Config.from_mapping(hypercorn_values(SETTINGS))
    sockets = config.create_sockets()
    (listening,) = sockets.insecure_sockets
    listening.listen()
    ended: list[bool] = []

    async def run() -> None:
        ended.append(await serve(application, config, sockets, Drain(DrainGate(), 0, 3600), SETTINGS, io_threads=1))

    with structlog.testing.capture_logs() as logs, trio.fail_after(20), listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await up.wait()
            async with await connect(listening.getsockname()[1]) as client:
                if busy:
                    await client.send_all(GET_CLOSE)
                    await begun.wait()
                ends.set()
                assert await _read_all(client) == b""
    assert ended == [False]
    (line,) = [line for line in logs if line["event"] == "the application ended"]
    assert isinstance(line["exc_info"], ValueError) == raises


# -- what it adapts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [hypercorn_run, hypercorn_protocol])
def test_where_hypercorn_is_not_as_expected_it_is_left_as_it_is_and_the_log_says_so(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TCPServer" if module is hypercorn_run else "H2Protocol"
    other = type("Other", (), {})
    monkeypatch.setattr(module, name, other)
    before = hypercorn_run.worker_serve
    with structlog.testing.capture_logs() as logs:
        install(Drain(DrainGate(), 0, 1), SETTINGS, io_threads=1)
    (line,) = logs
    assert line["log_level"] == "warning"
    assert [missing.rpartition(".")[2] for missing in line["missing"]] == [name]
    assert hypercorn_run.worker_serve is before
    assert getattr(module, name) is other


def test_a_worker_serve_without_what_is_needed_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def worker_serve(app: Any, config: Any) -> None: ...

    monkeypatch.setattr(hypercorn_run, "worker_serve", worker_serve)
    with structlog.testing.capture_logs() as logs:
        install(Drain(DrainGate(), 0, 1), SETTINGS, io_threads=1)
    assert logs[0]["missing"] == ["trio.run.worker_serve"]
    assert hypercorn_run.worker_serve is worker_serve
    assert vars(hypercorn_run)["TCPServer"] is TCPServer


async def test_left_as_it_is_it_still_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_unexpected", lambda: ["something"])
    async with _open_server(_answer_briefly) as port:
        assert vars(hypercorn_run)["TCPServer"] is TCPServer
        await _assert_it_serves(port)


def test_every_value_is_one_that_hypercorn_knows() -> None:
    values = hypercorn_values(SETTINGS)
    # A bare "port" or a misspelt name would become an attribute that nobody reads.
    assert {name for name in values if not hasattr(Config(), name)} == set()
    config = Config.from_mapping(values)
    assert {name: getattr(config, name) for name in values if name not in {"bind", "errorlog"}} == {
        name: value for name, value in values.items() if name not in {"bind", "errorlog"}
    }


def test_the_values_follow_the_settings() -> None:
    values = hypercorn_values(replace(SETTINGS, host="::1", port=3000, idle_timeout=5, drain_timeout=7))
    assert values["bind"] == ["[::1]:3000"]
    assert values["worker_class"] == "trio"
    assert values["keep_alive_timeout"] == 5
    # Hypercorn cancels connections only after the drain has cut its requests.
    assert values["graceful_timeout"] > 7
