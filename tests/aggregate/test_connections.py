"""Connections that are used again, and that none is lost, whenever a call is ended."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import httpcore
import trio

from app.aggregate.connections import Connections
from app.aggregate.network import CheckedNetwork
from tests.aggregate.upstreams import (
    Exchange,
    UpstreamServer,
    answer,
    answering,
    one_source,
    source,
    two_sources,
    upstream,
    views,
)


def connections(most_idle: int) -> Connections:
    return Connections(CheckedNetwork("127.0.0.1"), None, most_idle)


async def ask(of: Connections, server: UpstreamServer, *, wait: trio.Event | None = None) -> bytes:
    request = httpcore.Request("GET", server.url, headers=[(b"host", b"h")])
    async with of.response(request, again=True) as response:
        if wait is not None:
            await wait.wait()
        return b"".join([part async for part in response.aiter_stream()])


async def test_no_more_are_idle_than_may_be() -> None:
    async with upstream(answering(1)) as server:
        kept, go = connections(2), trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: ask(kept, server, wait=go))
            await server.wait(lambda: len(server.asked) == 5)
            go.set()
        await server.wait(lambda: server.open == 2)
        await kept.close()
        await server.has_no_connection()


async def test_one_that_the_other_side_has_closed_is_not_used() -> None:
    async def once(exchange: Exchange) -> None:
        await exchange.answer(b"1")
        await exchange.stream.aclose()

    async with upstream(once) as server:
        kept = connections(2)
        for count in (1, 2, 3):
            assert await ask(kept, server) == b"1"
            await server.has_no_connection()
            assert (len(server.asked), server.opened) == (count, count)
        await kept.close()


async def test_what_comes_behind_an_answer_is_not_the_next_ones() -> None:
    async def two_at_once(exchange: Exchange) -> None:
        if exchange.number > 1:
            await exchange.answer(b"good")
            return
        length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        await exchange.send(length % (1, b"1") + length % (6, b"poison"))

    async with upstream(two_at_once) as server:
        kept = connections(2)
        assert [await ask(kept, server) for _ in range(3)] == [b"1", b"good", b"good"]
        assert server.opened == 2
        await kept.close()


async def test_what_may_do_something_is_not_sent_twice(tmp_path: Path) -> None:
    async def cut(exchange: Exchange) -> None:
        if exchange.number == 2:
            await exchange.stream.aclose()
        else:
            await exchange.answer(b"1")

    text = one_source("{}", "method = 'POST'")
    async with upstream(cut) as server, views(tmp_path, text.replace("{}", server.url)) as aggregate:
        assert (await source(aggregate))["value"] == 1
        assert (await source(aggregate))["reason"] == "cut"
        assert len(server.asked) == 2


async def test_whenever_calls_are_ended_no_connection_is_lost(tmp_path: Path) -> None:
    times = random.Random(7)

    async def slowly(exchange: Exchange) -> None:
        for part in (
            b"HTTP/1.1 200 OK\r\nContent-Type: app",
            b"lication/json\r\nContent-Length: 3\r\n\r\n",
            b"[1",
            b"]",
        ):
            await exchange.send(part)
            await trio.sleep(0.001)

    async with upstream(slowly) as server:
        lines = ("hedge_after = '3ms'", "retries = 1")
        async with views(tmp_path, two_sources(server.url, server.url, *lines)) as aggregate:

            async def impatient() -> None:
                for _ in range(15):
                    with trio.move_on_after(times.uniform(0, 0.012)):
                        await answer(aggregate)

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(impatient)
            statistics = aggregate.statistics()
            assert (statistics.requests, statistics.flights, statistics.hosts.calls) == (0, 0, {})
            assert (await answer(aggregate))["complete"] is True
        await server.has_no_connection()
    gc.collect()  # a socket that nobody closed would be told now
