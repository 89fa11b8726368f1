"""Pipelines: one nursery of stages, joined by channels, that ends with its reader."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from app.flow.channels import Reader, Writer
from app.flow.pipelines import Output, Stage, open_pipeline


class _Source:
    """Chunks, and what became of whoever gives them."""

    def __init__(self, chunks: list[bytes], *, ends: bool = True) -> None:
        self._chunks = chunks
        self._ends = ends
        self.given = 0
        self.closed = False

    async def chunks(self) -> AsyncGenerator[bytes]:
        try:
            for chunk in self._chunks:
                await trio.lowlevel.checkpoint()
                self.given += 1
                yield chunk
            if not self._ends:
                await trio.sleep_forever()
        finally:
            self.closed = True


async def _upper(reader: Reader, writer: Writer) -> None:
    async for chunk in reader:
        await writer.send(chunk.upper())


def _first(count: int) -> Stage:
    async def first(reader: Reader, writer: Writer) -> None:
        for _ in range(count):
            await writer.send(await anext(reader))

    return first


def _failing(after: int, error: Exception) -> Stage:
    async def failing(reader: Reader, writer: Writer) -> None:
        for _ in range(after):
            await writer.send(await anext(reader))
        raise error

    return failing


async def _all(output: Output) -> list[bytes]:
    return [chunk async for chunk in output]


async def test_what_goes_in_comes_out_of_every_stage() -> None:
    source = _Source([b"ab", b"cd"])
    async with open_pipeline(source.chunks(), _upper, _upper) as output:
        assert await _all(output) == [b"AB", b"CD"]
        assert [channel.passed for channel in output.statistics()] == [4, 4, 4]
    assert source.closed


async def test_a_pipeline_without_stages_reads_ahead_up_to_its_bound() -> None:
    source = _Source([b"12345678"] * 10)
    async with open_pipeline(source.chunks(), max_bytes=16) as output:
        await trio.testing.wait_all_tasks_blocked()
        assert source.given == 3  # two are held, one waits
        assert len(await _all(output)) == 10


async def test_nothing_moves_faster_than_it_is_taken() -> None:
    source = _Source([b"12345678"] * 100)
    async with open_pipeline(source.chunks(), _upper, _upper, max_bytes=8) as output:
        await trio.testing.wait_all_tasks_blocked()
        before = source.given
        assert before <= 6
        await anext(output)
        await trio.testing.wait_all_tasks_blocked()
        assert source.given == before + 1
    assert source.closed


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_the_first_error_ends_the_rest_and_is_the_one_that_is_seen(place: int) -> None:
    error = ValueError("first")
    stages: list[Stage] = [_upper, _upper, _upper]
    stages[place] = _failing(1, error)
    source = _Source([b"a"] * 5, ends=False)
    with pytest.raises(ValueError, match="first") as caught:
        async with open_pipeline(source.chunks(), *stages) as output:
            await _all(output)
    assert caught.value is error
    assert source.closed


async def test_an_error_of_the_source_is_seen_as_it_is() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        async with open_pipeline(source(), _upper) as output:
            await _all(output)


async def test_an_error_leaves_the_block_to_what_it_does_until_it_asks_again() -> None:
    source = _Source([b"a", b"b", b"c"], ends=False)
    ends = ["never reached"]
    with pytest.raises(ValueError, match="first"):
        async with open_pipeline(source.chunks(), _failing(2, ValueError("first"))) as output:
            assert await anext(output) == b"a"
            await trio.testing.wait_all_tasks_blocked()
            ends[0] = "a write that must be whole"
            await anext(output)  # b"b" was there too, and is of no use any more
    assert ends == ["a write that must be whole"]
    assert source.closed


async def test_an_error_that_nobody_asked_for_leaves_the_block_at_its_end() -> None:
    with pytest.raises(ValueError, match="first"):
        async with open_pipeline(_Source([b"a"]).chunks(), _failing(1, ValueError("first"))):
            await trio.testing.wait_all_tasks_blocked()


async def test_an_error_of_the_block_is_not_wrapped_and_ends_the_stages() -> None:
    source = _Source([b"a"], ends=False)
    with pytest.raises(KeyError):
        async with open_pipeline(source.chunks(), _upper) as output:
            await anext(output)
            raise KeyError
    assert source.closed


async def test_a_stage_that_has_enough_ends_those_before_it_and_not_those_behind() -> None:
    source = _Source([b"a", b"b", b"c"], ends=False)
    async with open_pipeline(source.chunks(), _upper, _first(2), _upper) as output:
        assert await _all(output) == [b"A", b"B"]
        await trio.testing.wait_all_tasks_blocked()
        assert source.closed


async def test_a_source_that_is_stuck_is_ended_with_the_stage_that_has_enough() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        await trio.sleep_forever()

    async with open_pipeline(source(), _first(1)) as output:
        assert await _all(output) == [b"a"]


async def test_leaving_early_ends_all() -> None:
    source = _Source([b"a"] * 1000)
    async with open_pipeline(source.chunks(), _upper, max_bytes=2) as output:
        async for _ in output:
            break
    assert source.closed


async def test_a_cancellation_from_outside_passes_and_ends_all() -> None:
    source = _Source([b"a"], ends=False)
    with trio.CancelScope() as scope:
        async with open_pipeline(source.chunks(), _upper) as output:
            async for _ in output:
                scope.cancel()
    assert scope.cancelled_caught
    assert source.closed


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=6), max_size=12),
    st.integers(1, 8),
    st.integers(0, 4),
    st.integers(0, 120),
)
def test_a_cancellation_at_any_await_leaves_a_beginning_and_no_task(
    chunks: list[bytes], bound: int, depth: int, ticks: int
) -> None:
    source = _Source(chunks)
    arrived: list[bytes] = []

    async def consume(scope: trio.CancelScope) -> None:
        with scope:
            async with open_pipeline(source.chunks(), *[_upper] * depth, max_bytes=bound) as output:
                async for chunk in output:
                    arrived.append(chunk)

    async def run() -> None:
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume, scope)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == before

    async def count_and_run() -> None:
        nonlocal before
        before = trio.lowlevel.current_statistics().tasks_living
        await run()

    before = 0
    trio.run(count_and_run)
    expected = b"".join(chunks).upper() if depth else b"".join(chunks)
    assert expected.startswith(b"".join(arrived))
    assert source.closed or not source.given


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=20), st.integers(1, 30), st.integers(0, 3))
def test_every_chunking_and_bound_gives_the_same(data: bytes, sizes: list[int], bound: int, depth: int) -> None:
    chunks: list[bytes] = []
    rest = data
    for size in [*sizes, len(data)]:
        chunks.append(rest[:size])
        rest = rest[size:]

    async def run() -> bytes:
        async with open_pipeline(_Source(chunks).chunks(), *[_upper] * depth, max_bytes=bound) as output:
            return b"".join(await _all(output))

    assert trio.run(run) == (data.upper() if depth else data)


async def test_nothing_is_left_for_the_collector(recwarn: pytest.WarningsRecorder) -> None:
    for source in (_Source([b"a"] * 10), _Source([b"a"] * 10, ends=False)):
        async with open_pipeline(source.chunks(), _first(1)) as output:
            await _all(output)
    gc.collect()
    assert not recwarn.list
