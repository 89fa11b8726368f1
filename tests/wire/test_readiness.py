"""What sockets tell over the shared epoll: nothing is told twice, and nothing is missed."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

from app.wire.readiness import Readiness, Watched


@asynccontextmanager
async def _running() -> AsyncGenerator[Readiness]:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            readiness = Readiness()
            nursery.start_soon(readiness.run)
            yield readiness
            nursery.cancel_scope.cancel()


@contextmanager
def _pair() -> Generator[tuple[socket.socket, socket.socket]]:
    """The server's and the client's end of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, client:
        ours.setblocking(False)
        yield ours, client


async def _readable(watched: Watched) -> None:
    await watched.readable()


async def _stays_waiting(watched: Watched) -> bool:
    with trio.move_on_after(0.03) as waiting:
        await watched.readable()
    return waiting.cancelled_caught


@pytest.mark.parametrize("before", [True, False], ids=["before it is watched", "after"])
async def test_what_comes_is_told_once(before: bool) -> None:
    async with _running() as readiness:
        with _pair() as (ours, client):
            if before:
                client.send(b"a")
            watched = readiness.watch(ours.fileno(), reads=True)
            if not before:
                assert await _stays_waiting(watched)
                client.send(b"a")
            await watched.readable()
            assert await _stays_waiting(watched)  # also where it was not read
            client.send(b"b")
            await watched.readable()
            assert ours.recv(10) == b"ab"
            assert not watched.gone


async def test_what_came_while_nobody_waited_is_told_to_the_next() -> None:
    async with _running() as readiness:
        with _pair() as (ours, client):
            watched = readiness.watch(ours.fileno(), reads=True)
            client.send(b"a")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert watched.ready
            await watched.readable()
            assert not watched.ready


async def test_a_waiter_that_is_cancelled_takes_nothing_with_it() -> None:
    async with _running() as readiness:
        with _pair() as (ours, client):
            watched = readiness.watch(ours.fileno(), reads=True)
            assert await _stays_waiting(watched)
            client.send(b"a")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not await _stays_waiting(watched)


@pytest.mark.parametrize("times", [1, 3])
async def test_it_can_be_woken_by_hand(times: int) -> None:
    async with _running() as readiness:
        with _pair() as (ours, _):
            watched = readiness.watch(ours.fileno(), reads=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_readable, watched)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(times):
                    watched.wake()
            if times > 1:  # those after the first may have told of something that came later
                assert not await _stays_waiting(watched)
            assert await _stays_waiting(watched)
            watched.wake()
            assert not await _stays_waiting(watched)


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("unread", [True, False])
@pytest.mark.parametrize("way", ["fin", "half-close", "reset"])
async def test_who_leaves_is_told_once(way: str, unread: bool, reads: bool) -> None:
    told: list[str] = []
    async with _running() as readiness:
        with _pair() as (ours, client):
            watched = readiness.watch(ours.fileno(), reads=reads)
            watched.on_gone = lambda: told.append(way)
            if unread:
                client.send(bytes(50_000))
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert (told, watched.gone) == ([], False)
            match way:
                case "fin":
                    client.close()
                case "half-close":
                    client.shutdown(socket.SHUT_WR)
                case _:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    client.close()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (told, watched.gone) == ([way], True)
            ours.close()  # both ends are: it is told again, to nobody
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert told == [way]


async def test_who_left_before_it_was_watched_is_told_of() -> None:
    async with _running() as readiness:
        with _pair() as (ours, client):
            client.close()
            watched = readiness.watch(ours.fileno(), reads=True)
            await watched.readable()
            assert watched.gone


async def test_bytes_alone_are_not_told_where_nobody_reads_by_it() -> None:
    async with _running() as readiness:
        with _pair() as (ours, client):
            watched = readiness.watch(ours.fileno(), reads=False)
            client.send(b"a")
            assert await _stays_waiting(watched)


async def test_what_is_forgotten_is_not_told_of_any_more() -> None:
    told: list[str] = []
    async with _running() as readiness:
        with _pair() as (ours, client):
            watched = readiness.watch(ours.fileno(), reads=True)
            watched.on_gone = lambda: told.append("gone")
            readiness.forget(ours.fileno())
            readiness.forget(ours.fileno())
            client.close()
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert told == []
        assert readiness._watched == {}


async def test_a_descriptor_that_is_used_again_is_another_socket() -> None:
    told: list[str] = []
    async with _running() as readiness:
        with _pair() as (ours, client):
            first = readiness.watch(ours.fileno(), reads=True)
            first.on_gone = lambda: told.append("first")
            number = ours.fileno()
            client.close()  # told, and not heard yet
            readiness.forget(number)
        with _pair() as (ours, client):
            second = readiness.watch(ours.fileno(), reads=True)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not second.gone
            client.send(b"a")
            await second.readable()
        assert told == []


async def test_more_sockets_than_are_told_of_at_a_time() -> None:
    count = 1500
    async with _running() as readiness:
        pairs = [socket.socketpair() for _ in range(count)]
        watched = [readiness.watch(ours.fileno(), reads=True) for ours, _ in pairs]
        for _, theirs in pairs:
            theirs.send(b"a")
        for each in watched:
            await each.readable()
        for pair in pairs:
            readiness.forget(pair[0].fileno())
            for each in pair:
                each.close()


async def test_sockets_can_be_forgotten_after_its_end() -> None:
    with _pair() as (ours, _):
        async with _running() as readiness:
            readiness.watch(ours.fileno(), reads=True)
        readiness.forget(ours.fileno())
        assert readiness._watched == {}
