"""Requests for tasks as they come in, and what is given back of what they took."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from app.compute.bodies import Bodies
from app.compute.payload import InFile, Inline, Payload
from app.errors import BadJson, BodyTooLarge, Overloaded
from tests.chunks import chunked, failing

INLINE, MOST = 100, 1000


def bodies(together: int = MOST) -> Bodies:
    return Bodies(INLINE, MOST, together)


async def receive(into: Bodies, data: bytes, resources: ExitStack, size: int = 64) -> Payload:
    async with aclosing(chunked(data, size)) as chunks:
        return await into.receive(chunks, resources)


def read(payload: Payload) -> bytes:
    match payload:
        case Inline(data):
            return data
        case InFile(descriptor, size):
            assert os.fstat(descriptor).st_size == size
            return os.pread(descriptor, size, 0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, MOST + 50), st.integers(1, 300))
def test_a_body_is_in_memory_or_in_a_file_or_too_large(length: int, size: int) -> None:
    data = (b"[1,2]" + b" " * length)[:length] if length >= 5 else b" " * length

    async def run() -> None:
        with ExitStack() as resources:
            if length > MOST:
                with pytest.raises(BodyTooLarge):
                    await receive(bodies(), data, resources, size)
                return
            payload = await receive(bodies(), data, resources, size)
            assert read(payload) == data
            assert isinstance(payload, Inline) == (length <= INLINE)

    trio.run(run)


async def test_what_is_watched_is_all_of_it_in_order() -> None:
    data = b"[" + b"1," * 30_000 + b"1]"
    seen: list[bytes] = []
    into = Bodies(10, 1_000_000, 1_000_000)
    with ExitStack() as resources:
        await into.receive(chunked(data, 50_000), resources, seen.append)
    assert b"".join(seen) == data
    assert max(map(len, seen)) <= 16 * 1024


async def test_others_are_served_while_a_large_chunk_is_looked_at() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        with ExitStack() as resources:
            await Bodies(10, 2**20, 2**20).receive(chunked(b" " * 2**20, 2**20), resources)
        nursery.cancel_scope.cancel()
    assert turns >= 60


async def _never(data: bytes) -> AsyncGenerator[bytes]:
    yield data
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"[" * 65, BadJson),
        (b" " * INLINE + b"[" * 65, BadJson),
        (b" " * (MOST + 1), BodyTooLarge),
    ],
)
async def test_what_is_too_much_is_refused_before_its_end(data: bytes, error: type[Exception]) -> None:
    into = bodies()
    with trio.fail_after(10):
        for _ in range(2):  # the place was given back
            async with aclosing(_never(data)) as chunks:
                with ExitStack() as resources, pytest.raises(error):
                    await into.receive(chunks, resources)


@pytest.mark.parametrize("data", [b"[1", b'["', b"[" + b" " * INLINE])
async def test_what_ends_too_early_is_refused(data: bytes) -> None:
    """(Small ones are parsed as soon as they have ended.)"""
    into = Bodies(INLINE, 10_000, 10_000)
    for _ in range(2):
        with ExitStack() as resources, pytest.raises(BadJson):
            await receive(into, b" " * 5000 + data, resources)


async def test_a_length_that_is_too_large_is_refused_without_reading() -> None:
    seen: list[bytes] = []
    async with aclosing(_never(b"[")) as chunks:
        with ExitStack() as resources, pytest.raises(BodyTooLarge):
            await bodies().receive(chunks, resources, seen.append, MOST + 1)
    assert seen == []


async def test_the_least_of_both_limits_counts() -> None:
    into = Bodies(1000, 10, 10)
    with ExitStack() as resources:
        assert read(await receive(into, b" " * 10, resources)) == b" " * 10
        with pytest.raises(BodyTooLarge):
            await receive(into, b" " * 11, resources)


async def test_bytes_of_large_bodies_count_together_and_are_given_back() -> None:
    large = b" " * (INLINE + 1)
    into = bodies(together=2 * len(large) - 1)
    with ExitStack() as resources:
        first = await receive(into, large, resources)
        assert isinstance(first, InFile)
        with ExitStack() as others:
            with pytest.raises(Overloaded) as refused:
                await receive(into, large, others)
            assert (refused.value.retry_after or 0) >= 1
            assert isinstance(await receive(into, b"[]", others), Inline)
        assert read(first) == large  # nobody else has closed it
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first.descriptor)
    with ExitStack() as resources:
        assert isinstance(await receive(into, large, resources), InFile)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_client_that_leaves_gives_back_its_bytes(how: str) -> None:
    large = b" " * (INLINE + 1)
    into = bodies(together=len(large))
    if how == "failed":
        with ExitStack() as resources, pytest.raises(ConnectionError):
            await into.receive(failing(large, ConnectionError()), resources)
    else:

        async def leave() -> None:
            with ExitStack() as resources:
                await into.receive(_never(large), resources)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    with ExitStack() as resources:
        assert isinstance(await receive(into, large, resources), InFile)
