"""Plans that run: where each step runs, in which order, how it ends, and what is held back."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ExpansionTooLarge, UnsupportedContentEncoding
from app.flow.processes import open_processes
from app.flow.threads import ThreadPool
from app.transforms.plan import Content
from app.transforms.service import Outcome, Transforms
from app.transforms.step import Malformed
from tests.transforms.fake_steps import REGISTRY

_LARGE = b"x" * 50_000 + b"\n"
_PLACES = ("loop", "thread", "process")


class Body:
    """Chunks; then nothing more comes, unless it ends."""

    def __init__(self, chunks: Sequence[bytes], *, ends: bool = True) -> None:
        self.closed = False
        self.taken = 0
        self._chunks = chunks
        self._ends = ends

    async def stream(self) -> AsyncGenerator[bytes]:
        try:
            for chunk in self._chunks:
                await trio.lowlevel.checkpoint()
                self.taken += len(chunk)
                yield chunk
            if not self._ends:
                await trio.sleep_forever()
        finally:
            self.closed = True


@pytest.fixture
async def transforms() -> AsyncIterator[Transforms]:
    async with open_processes("transforms", 1) as processes:
        yield Transforms(REGISTRY, ThreadPool("transforms", 2), processes, 200)


async def _run(transforms: Transforms, steps: list[str], *chunks: bytes, outcome: Outcome | None = None) -> bytes:
    plan = transforms.plan(steps, Content.of(None))
    async with transforms.run(Body(chunks).stream(), plan, outcome) as out:
        return b"".join([chunk async for chunk in out])


@pytest.mark.parametrize("place", _PLACES)
async def test_what_comes_out_is_what_the_step_gives(transforms: Transforms, place: str) -> None:
    chunks = [b"one\ntw", b"o\n", b"three", _LARGE, _LARGE, b"last"]
    assert await _run(transforms, [f"lines-{place}"], *chunks) == b"".join(chunks) + b"\n"


async def test_steps_of_all_places_follow_one_another_in_order(transforms: Transforms) -> None:
    outcome = Outcome()
    steps = ["lines-process", "lines-thread", "lines-loop", "lines-process", "doubled"]
    given = _LARGE * 30
    assert await _run(transforms, steps, given, outcome=outcome) == given * 2
    assert (outcome.taken, outcome.given) == (len(given), 2 * len(given))


async def test_large_bodies_are_worked_on_where_they_do_not_hold_up_the_loop(transforms: Transforms) -> None:
    found = {place: await _run(transforms, [f"lines-{place}"], _LARGE, b"place\n") for place in _PLACES}
    pids, threads = {}, {}
    for place, out in found.items():
        pids[place], threads[place] = map(int, out[len(_LARGE) :].split())
    assert pids["loop"] == pids["thread"] == os.getpid() != pids["process"]
    assert threads["loop"] == threading.get_ident() != threads["thread"]


async def test_small_ones_too(transforms: Transforms) -> None:
    """However small it is, what a step makes of it may take long."""
    pid, _ = map(int, (await _run(transforms, ["lines-process"], b"place\n")).split())
    assert pid != os.getpid()


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("before", [b"", _LARGE * 3], ids=["small", "large"])
async def test_what_is_malformed_is_told_as_the_step_told_it(transforms: Transforms, place: str, before: bytes) -> None:
    with pytest.raises(Malformed, match="a bad line") as caught:
        await _run(transforms, [f"lines-{place}", "lines-loop"], before, b"fine\nbad\nfine\n")
    assert caught.value.members == {"line": 3, "offset": 7}


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("size", [2, 70_000])
async def test_a_step_that_has_enough_ends_the_source(transforms: Transforms, place: str, size: int) -> None:
    body = Body([b"y" * (size + 5)], ends=False)
    plan = transforms.plan([f"first-{place}:{size}", "lines-loop"], Content.of(None))
    async with transforms.run(body.stream(), plan) as out:
        assert b"".join([chunk async for chunk in out]) == b"y" * size + b"\n"
    assert body.closed


async def test_what_a_step_before_one_that_has_enough_still_holds_matters_to_nobody(transforms: Transforms) -> None:
    assert await _run(transforms, ["lines-loop", "first-loop:4"], b"one\nbad") == b"one\n"


async def test_little_that_gives_much_is_given_in_parts() -> None:
    """In a process: what came out until then is passed on before more is made."""
    async with open_processes("transforms", 1) as processes:
        await _take_much(Transforms(REGISTRY, ThreadPool("transforms", 2), processes, 1e9))


async def _take_much(transforms: Transforms) -> None:
    plan = transforms.plan(["lines-process"], Content.of(None))
    lines = b"many:1048576\n" * 3000
    async with transforms.run(Body([_LARGE, lines]).stream(), plan) as out:
        seen = 0
        async for chunk in out:
            assert len(chunk) < 1 << 18
            seen += len(chunk)
            if seen > 30 << 20:
                break


async def test_leaving_ends_the_step_in_its_process(transforms: Transforms) -> None:
    body = Body([_LARGE] * 1000)
    with trio.CancelScope() as scope:
        async with transforms.run(
            body.stream(), transforms.plan(["lines-process", "lines-thread"], Content.of(None))
        ) as out:
            async for _ in out:
                scope.cancel()
    assert body.closed
    assert body.taken < 1000 * len(_LARGE)


async def test_the_first_of_it_waits_for_its_end_where_that_comes_soon(transforms: Transforms) -> None:
    """So that an error at the end of a small body can still be told."""
    plan = transforms.plan(["lines-loop"], Content.of(None))
    async with transforms.run(Body([b"a\n", b"b\n", b"c"]).stream(), plan) as out:
        assert [chunk async for chunk in out] == [b"a\nb\nc\n"]


async def test_the_first_of_it_does_not_wait_for_a_client_that_waits_for_it(transforms: Transforms) -> None:
    plan = transforms.plan(["lines-loop"], Content.of(None))
    async with transforms.run(Body([b"a\n", b"b\n"], ends=False).stream(), plan) as out:
        assert await anext(out) == b"a\nb\n"


async def test_much_of_it_does_not_wait(transforms: Transforms) -> None:
    plan = transforms.plan(["lines-loop"], Content.of(None))
    async with transforms.run(Body([_LARGE] * 40).stream(), plan) as out:
        assert 64 * 1024 <= len(await anext(out)) < 40 * len(_LARGE)


async def test_a_reader_that_does_not_read_stops_the_source(transforms: Transforms) -> None:
    body = Body([_LARGE] * 1000)
    async with transforms.run(body.stream(), transforms.plan(["lines-loop"] * 5, Content.of(None))) as out:
        await anext(out)
        await trio.testing.wait_all_tasks_blocked()
        assert body.taken < 2 * 1024 * 1024


async def test_a_record_now_and_then_begins_the_answer_all_the_same(transforms: Transforms) -> None:
    """Also where no pause is long enough to tell that somebody waits."""

    async def trickle() -> AsyncGenerator[bytes]:
        while True:
            yield b"a\n"
            await trio.sleep(0.02)

    plan = transforms.plan(["lines-loop"], Content.of(None))
    async with transforms.run(trickle(), plan) as out:
        assert (await anext(out)).startswith(b"a\na\n")


async def test_an_answer_begins_although_nothing_comes_out_of_much(transforms: Transforms) -> None:
    async def much() -> AsyncGenerator[bytes]:
        while True:
            yield b"x" * 65536
            await trio.sleep(0.02)

    plan = transforms.plan(["doubled"], Content.of(None))
    async with transforms.run(much(), plan) as out:
        assert await anext(out) == b""


@pytest.mark.parametrize("place", _PLACES)
async def test_what_becomes_too_much_on_the_way_is_refused(transforms: Transforms, place: str) -> None:
    """Also where none of it would come out in the end."""
    steps = [f"lines-{place}", "nothing"] if place == "process" else [f"lines-{place}"]
    with pytest.raises(ExpansionTooLarge):
        await _run(transforms, steps, b"many:104857600\n")


async def test_decompressions_do_not_multiply_what_they_may_give(transforms: Transforms) -> None:
    bomb = b"\0" * 2**20
    for _ in range(3):
        bomb = gzip.compress(bomb * 200)[: 2**20]
    plan = transforms.plan(["lines-loop"], Content.of(None))
    decoders = transforms.decoders(["gzip", "gzip", "gzip"])
    with pytest.raises((ExpansionTooLarge, Malformed)):
        async with transforms.run(Body([bomb]).stream(), plan, decoders=decoders) as out:
            async for _ in out:
                pass


async def test_who_leaves_lets_the_process_finish_what_is_short(transforms: Transforms) -> None:
    pids: set[bytes] = set()
    for _ in range(3):
        async with transforms.run(
            Body([b"place\n", _LARGE], ends=False).stream(), transforms.plan(["lines-process"], Content.of(None))
        ) as out:
            pids.add((await anext(out)).split()[0])
    assert len(pids) == 1


async def test_digests_are_of_what_came_out(transforms: Transforms) -> None:
    outcome = Outcome()
    plan = transforms.plan(["lines-loop"], Content.of(None))
    async with transforms.run(Body([b"a\n"]).stream(), plan, outcome, digest=True) as out:
        data = b"".join([chunk async for chunk in out])
    assert outcome.sha256 == hashlib.sha256(data).digest()


def test_codings_are_undone_from_the_outermost(transforms_without_places: Transforms) -> None:
    assert len(transforms_without_places.decoders(["gzip", " ZSTD "])) == 2
    assert transforms_without_places.decoders(["identity"]) == []
    with pytest.raises(UnsupportedContentEncoding, match="more than"):
        transforms_without_places.decoders(["gzip"] * 5)
    with pytest.raises(UnsupportedContentEncoding, match="'br'"):
        transforms_without_places.decoders(["gzip", "br"])


@pytest.fixture
def transforms_without_places() -> Transforms:
    return Transforms(REGISTRY, ThreadPool("transforms", 2), None, 200)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=30).map(lambda data: data.replace(b"bad", b"").replace(b"place", b"")), max_size=15),
    st.lists(st.sampled_from(["lines-loop", "lines-thread", "doubled"]), min_size=1, max_size=4),
    st.integers(0, 200),
)
def test_a_cancellation_at_any_await_leaves_nothing_behind(chunks: list[bytes], steps: list[str], ticks: int) -> None:
    body = Body(chunks)

    async def consume(scope: trio.CancelScope) -> None:
        transforms = Transforms(REGISTRY, ThreadPool("transforms", 2), None, 200)  # type: ignore[arg-type]
        with scope:
            async with transforms.run(body.stream(), transforms.plan(steps, Content.of(None))) as out:
                async for _ in out:
                    pass

    async def run() -> None:
        before = trio.lowlevel.current_statistics().tasks_living
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume, scope)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == before

    trio.run(run)
    assert body.closed or not body.taken
