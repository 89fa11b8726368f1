"""Files that the kernel sends: whole, in part, cut short, and given up."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from app.wire.asgi import PEER, ZERO_COPY, Receive, Scope, Send
from tests.wire.serving import (
    GET,
    MUCH,
    answer,
    end,
    get,
    open_descriptors,
    open_server,
    part,
    send_file,
    start,
)

_HEAD = b"HEAD" + GET[3:]


def _content(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(_content(MUCH))
    return path


@pytest.mark.parametrize(("offset", "count"), [(0, 1_000_000), (0, 9_000_000), (12_345, 4_567_890), (7, 1), (0, 0)])
@pytest.mark.parametrize("announced", [True, False])
async def test_the_kernel_sends_a_file_or_a_range_of_it(offset: int, count: int, announced: bool, file: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert ZERO_COPY in scope["extensions"]
        await start(send, *([(b"content-length", b"%d" % count)] if announced else []))
        await send_file(send, file, offset, count)

    async with open_server(app) as server, server.connect(1 << 20) as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert answered.body == _content(MUCH)[offset : offset + count]
            assert answered.fields[b"content-length"] == b"%d" % count
        assert (await client.ask(_HEAD)).body == b""


async def test_a_file_goes_between_other_parts(file: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"before")
        await send_file(send, file, 0, 100_000, more_body=True)
        await send_file(send, file, 5, 10, more_body=scope["path"] != "/last")
        if scope["path"] != "/last":
            await end(send, b"after")

    async with open_server(app) as server, server.connect() as client:
        for path in ("/", "/last"):
            body = (await client.ask(get(path))).body
            content = _content(MUCH)[:100_000]
            assert body == b"before" + content + content[5:15] + (b"after" if path == "/" else b"")


async def test_a_file_s_descriptor_is_enough(file: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        descriptor = os.open(file, os.O_RDONLY)
        try:
            await send({"type": ZERO_COPY, "file": descriptor, "count": 100})
        finally:
            os.close(descriptor)

    async with open_server(app) as server:
        assert (await server.ask(GET)).body == _content(MUCH)[:100]


async def test_over_tls_files_are_not_offered() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert ZERO_COPY not in scope["extensions"]
        await answer(send, b"read")

    async with open_server(app, tls=True) as server:
        assert (await server.ask(GET)).body == b"read"


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "until its end"])
async def test_a_file_that_has_become_shorter_is_cut(version: bytes, announced: bool, file: Path) -> None:
    failed = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fields = [(b"content-length", b"%d" % MUCH)] if announced else []
        await start(send, *fields)
        os.truncate(file, 1_000_000)
        try:
            await send_file(send, file, 0, MUCH, more_body=True)
        except EOFError:
            failed.set()
            raise
        await end(send)

    async with open_server(app) as server, server.connect(1 << 20) as client:
        with structlog.testing.capture_logs() as logs:
            answered = await client.ask(GET.replace(b"1.1", version))
            assert not answered.complete
            assert len(answered.body) <= 1_000_000
            assert await client.rest() == b""
        assert failed.is_set()
        assert [line["event"] for line in logs] == ["application failed"]


async def _download(app: Callable[[Send], Awaitable[None]], act: Callable[..., Awaitable[None]], **more: Any) -> None:
    """A client that asks and reads nothing; the application has ended and no descriptor is left after ``act``."""
    begun, ended = trio.Event(), trio.Event()
    scopes: list[trio.CancelScope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope["extensions"][PEER].scope)
        begun.set()
        try:
            await app(send)
        finally:
            ended.set()

    async with open_server(application, **more) as server:
        before = open_descriptors()
        async with server.connect() as client:
            await client.send(GET)
            await begun.wait()
            await trio.sleep(0.05)
            assert not ended.is_set()
            await act(client, scopes[0])
            with trio.fail_after(2):
                await ended.wait()
                await server.all_gone()
        assert open_descriptors() == before
        assert server.connections.readiness._watched == {}


async def _whole_file(path: Path, send: Send) -> None:
    await start(send, (b"content-length", b"%d" % MUCH))
    await send_file(send, path, 0, MUCH)


async def test_a_client_that_leaves_in_mid_file(file: Path) -> None:
    for how in ("close", "reset", "half-close"):

        async def act(client: Any, scope: trio.CancelScope, how: str = how) -> None:
            client.leave(how)
            if how == "half-close":  # which is told, and ends what waits for it
                scope.cancel()

        await _download(lambda send: _whole_file(file, send), act)


async def test_a_client_that_stalls_in_mid_file_is_cut(file: Path) -> None:
    async def act(client: Any, _: trio.CancelScope) -> None:
        await trio.sleep(0.3)
        assert len(await client.rest()) < MUCH

    with structlog.testing.capture_logs() as logs:
        await _download(lambda send: _whole_file(file, send), act, stall_timeout=0.2)
    assert {"event": "connection stalled", "seconds": 0.2, "log_level": "info"} in logs


async def test_a_file_that_is_cancelled_while_the_client_does_not_read(file: Path) -> None:
    async def act(client: Any, scope: trio.CancelScope) -> None:
        scope.cancel()
        assert len(await client.rest()) < MUCH

    await _download(lambda send: _whole_file(file, send), act)


async def test_a_file_that_is_cancelled_while_a_thread_sends_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is waited for: its descriptors are open for as long as it uses them."""
    sending, go_on = threading.Event(), threading.Event()
    sendfile = os.sendfile

    def slow(out: int, into: int, offset: int, count: int) -> int:
        sending.set()
        assert go_on.wait(10)
        return sendfile(out, into, offset, count)

    monkeypatch.setattr(os, "sendfile", slow)
    ended: list[bool] = []

    async def app(send: Send) -> None:
        try:
            await _whole_file(file, send)
        finally:
            ended.append(go_on.is_set())

    async def act(client: Any, scope: trio.CancelScope) -> None:
        assert await trio.to_thread.run_sync(sending.wait, 10)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert ended == []
        go_on.set()

    await _download(app, act)
    assert ended == [True]
