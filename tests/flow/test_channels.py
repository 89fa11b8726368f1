"""Channels of bytes: the bound counts bytes, and either end ends the other."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from app.flow.channels import Reader, ReaderGone, Writer, open_channel


async def _write(writer: Writer, chunks: list[bytes]) -> None:
    with writer:
        for chunk in chunks:
            await writer.send(chunk)


async def _read(reader: Reader) -> list[bytes]:
    return [chunk async for chunk in reader]


async def test_a_writer_waits_for_room_in_bytes() -> None:
    writer, reader = open_channel(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, writer, [b"123456", b"7890", b"x", b"y"])
        await trio.testing.wait_all_tasks_blocked()
        state = reader.statistics()
        assert (state.buffered, state.writer_waits, state.reader_waits, state.passed) == (10, True, False, 0)
        assert await anext(reader) == b"123456"
        await trio.testing.wait_all_tasks_blocked()
        assert writer.statistics().buffered == 6
        assert await _read(reader) == [b"7890", b"x", b"y"]
        assert reader.statistics().passed == 12


async def test_a_chunk_larger_than_the_bound_goes_alone() -> None:
    writer, reader = open_channel(4)
    await writer.send(b"1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, writer, [b"23456789"])
        await trio.testing.wait_all_tasks_blocked()
        assert reader.statistics().buffered == 1
        assert await _read(reader) == [b"1", b"23456789"]


async def test_a_reader_that_waits_is_told_of(autojump_clock: trio.testing.MockClock) -> None:
    writer, reader = open_channel()
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read, reader)
            await trio.testing.wait_all_tasks_blocked()
            assert writer.statistics().reader_waits
            await trio.sleep_forever()


async def test_the_end_comes_after_what_was_sent_and_stays() -> None:
    writer, reader = open_channel()
    await _write(writer, [b"a", b"", b"b"])
    assert await _read(reader) == [b"a", b"b"]
    assert await _read(reader) == []
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(b"c")


async def test_an_error_travels_downstream_as_that_error() -> None:
    writer, reader = open_channel()
    error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"), writer:
        await writer.send(b"a")
        raise error
    assert await anext(reader) == b"a"
    for _ in range(2):
        with pytest.raises(ValueError, match="bad") as caught:
            await anext(reader)
        assert caught.value is error


async def test_what_a_cancellation_cuts_does_not_look_complete() -> None:
    writer, reader = open_channel()
    with trio.CancelScope() as scope, writer:
        await writer.send(b"a")
        scope.cancel()
        await trio.sleep_forever()
    assert await anext(reader) == b"a"
    with pytest.raises(trio.BrokenResourceError):
        await anext(reader)


async def test_a_reader_that_leaves_ends_the_writer() -> None:
    writer, reader = open_channel(2)
    await writer.send(b"ab")
    reader.close()
    with pytest.raises(ReaderGone):
        await writer.send(b"c")
    assert reader.statistics().buffered == 0
    with pytest.raises(trio.ClosedResourceError):
        await anext(reader)


async def test_a_reader_that_leaves_ends_a_writer_that_waits() -> None:
    writer, reader = open_channel(2)
    ended: list[type[Exception]] = []

    async def write() -> None:
        try:
            await _write(writer, [b"ab", b"c"])
        except ReaderGone as error:
            ended.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        with reader:
            assert ended == []
    assert ended == [ReaderGone]


async def test_cancelling_either_side_loses_nothing() -> None:
    writer, reader = open_channel(2)
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.send(b"never")
    await writer.send(b"ab")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.send, b"never")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    writer.close()
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(reader)
    assert await _read(reader) == [b"ab"]


async def test_both_sides_are_checkpoints() -> None:
    writer, reader = open_channel()
    with trio.testing.assert_checkpoints():
        await writer.send(b"a")
    with trio.testing.assert_checkpoints():
        await writer.send(b"")
    with trio.testing.assert_checkpoints():
        await anext(reader)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(max_size=9), max_size=30), st.integers(1, 12), st.integers(0, 40), st.booleans())
def test_whatever_is_cancelled_whenever_what_arrives_is_a_beginning_of_what_was_sent(
    chunks: list[bytes], bound: int, ticks: int, cancel_writer: bool
) -> None:
    arrived: list[bytes] = []
    most = max((bound, *map(len, chunks)))

    async def write(writer: Writer, scope: trio.CancelScope) -> None:
        with suppress(ReaderGone), scope:
            await _write(writer, chunks)

    async def read(reader: Reader, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError), scope, reader:
            async for chunk in reader:
                arrived.append(chunk)
                assert reader.statistics().buffered <= most
                await trio.lowlevel.checkpoint()

    async def run() -> None:
        writer, reader = open_channel(bound)
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, writer, scope if cancel_writer else trio.CancelScope())
            nursery.start_soon(read, reader, trio.CancelScope() if cancel_writer else scope)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            scope.cancel()

    trio.run(run)
    wanted = [chunk for chunk in chunks if chunk]
    assert arrived == wanted[: len(arrived)]
