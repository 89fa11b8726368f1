"""Turns in worker processes: what a turn takes and leaves, and how its stages end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ExpansionTooLarge, Overloaded
from app.flow.processes import ProcessDied, open_processes
from app.flow.threads import ThreadPool
from app.transforms.plan import Content
from app.transforms.service import Transforms
from app.transforms.turns import Progress, turn
from tests.flow.test_processes import PATIENCE
from tests.transforms.driving import quick
from tests.transforms.fake_steps import REGISTRY, First, Lines

_LINES = b"".join(b"%06d\n" % number for number in range(300_000))


class Pipes:
    """What comes in, and what went out."""

    def __init__(self) -> None:
        self.source, self._to = os.pipe2(os.O_NONBLOCK)
        self._from, self.sink = os.pipe2(os.O_NONBLOCK)

    def send(self, data: bytes) -> None:
        assert os.write(self._to, data) == len(data)

    def end(self) -> None:
        os.close(self._to)
        self._to = -1

    def turn(self, progress: Progress) -> Progress:
        return turn(progress, os.getpid(), self.source, self.sink)

    def taken(self) -> bytes:
        try:
            return os.read(self._from, 1 << 20)
        except BlockingIOError:
            return b""

    def passed_on(self, progress: Progress) -> bytes:
        """What a turn gave, and what it left, which is not the next one's."""
        left, progress.left = progress.left, []
        return self.taken() + b"".join(left)

    def close(self) -> None:
        for descriptor in (self.source, self._to, self._from, self.sink):
            if descriptor >= 0:
                os.close(descriptor)


@contextmanager
def opened() -> Generator[Pipes]:
    pipes = Pipes()
    try:
        yield pipes
    finally:
        pipes.close()


def progress(*chain: Lines | First) -> Progress:
    return Progress(chain, [0] * len(chain))


@quick
@given(st.lists(st.lists(st.sampled_from([b"a", b"\n", b"long" * 50, b"many:65536\n"]), max_size=4).map(b"".join)))
def test_whatever_comes_and_goes_in_whichever_turns_is_given_in_order(parts: list[bytes]) -> None:
    with opened() as pipes, mock.patch("app.transforms.turns._PATIENCE_SECONDS", 0):
        now, out = progress(Lines()), b""
        for part in filter(None, parts):
            pipes.send(part)
            now = pipes.turn(now)
            out += pipes.passed_on(now)
        pipes.end()
        while not now.finished:
            now = pipes.turn(now)
            out += pipes.passed_on(now)
    lines = Lines()
    assert out == b"".join([*lines.feed(b"".join(parts)), *lines.finish()])
    assert now.flowed == len(out)


def test_what_nobody_takes_is_left_and_nothing_more_is_taken() -> None:
    with opened() as pipes:
        pipes.send(b"many:1048576\n")
        now = pipes.turn(progress(Lines()))
        assert sum(map(len, now.left)) == (1 << 20) - len(pipes.taken())
        pipes.send(b"more\n")
        again = pipes.turn(now)
        assert again.left
        assert os.read(pipes.source, 100) == b"more\n"


def test_what_becomes_too_much_is_not_held_although_nobody_takes_it() -> None:
    with opened() as pipes:
        pipes.send(b"many:1048576\n" * 50)
        swelling = progress(Lines())
        swelling.most, swelling.expansion = 1 << 20, 100
        with pytest.raises(ExpansionTooLarge, match="1113576 bytes"):
            pipes.turn(swelling)
        assert 1 << 20 < swelling.flowed <= 2 << 20


def test_what_grows_with_what_comes_is_allowed() -> None:
    with opened() as pipes:
        pipes.send(b"many:65536\n")
        growing = progress(Lines())
        growing.most, growing.expansion = 0, 10_000
        assert pipes.turn(growing).flowed == 65_536


def test_a_turn_ends_where_nothing_comes() -> None:
    with opened() as pipes:
        now = pipes.turn(progress(Lines()))
        assert not now.finished
        assert not now.flowed


def test_a_turn_ends_although_more_comes() -> None:
    with opened() as pipes, mock.patch("app.transforms.turns._TURN_SECONDS", 0):
        pipes.send(b"a\n")
        assert pipes.turn(progress(Lines())).flowed == 0
    with opened() as pipes, mock.patch("time.monotonic", side_effect=[0, 0, 0.01, 0.03]):
        pipes.send(b"line\n" * 4000)
        now = pipes.turn(progress(Lines()))
        assert 0 < now.flowed < 20_000
        assert not now.left


def test_a_chain_that_is_done_ends_without_the_end() -> None:
    with opened() as pipes:
        pipes.send(b"four more")
        now = pipes.turn(progress(First(4)))
        assert now.finished
        assert not now.left
        assert pipes.taken() == b"four"


# -- in a server -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def transforms() -> AsyncGenerator[Transforms]:
    async with open_processes("transforms", 1) as processes:
        yield Transforms(REGISTRY, ThreadPool("transforms", 2), processes, 200)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No descriptor of a pipe of ours."""
    before = _large_pipes()
    yield
    assert _large_pipes() == before


def _large_pipes() -> set[str]:
    found = set[str]()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own, by then; or no pipe
            if fcntl.fcntl(int(entry.name), fcntl.F_GETPIPE_SZ) == 256 * 1024:
                found.add(str(entry.readlink()))
    return found


async def _lines(*, ends: bool = True) -> AsyncGenerator[bytes]:
    for start in range(0, len(_LINES), 50_000):
        await trio.lowlevel.checkpoint()
        yield _LINES[start : start + 50_000]
    if not ends:
        await trio.sleep_forever()


async def test_many_turns_give_all_in_order(transforms: Transforms) -> None:
    with mock.patch("app.transforms.in_processes._PIPE_BYTES", 4096):
        async with transforms.run(_lines(), transforms.plan(["lines-process"] * 2, Content.of(None))) as out:
            assert b"".join([chunk async for chunk in out]) == _LINES


async def test_a_reader_that_does_not_read_holds_no_process(transforms: Transforms) -> None:
    plan = transforms.plan(["lines-process"], Content.of(None))
    async with transforms.run(_endless(), plan) as stalled:
        first = await anext(stalled)
        with trio.fail_after(PATIENCE):
            async with transforms.run(_lines(), plan) as out:
                assert b"".join([chunk async for chunk in out]) == _LINES
        rest = await anext(stalled)
        assert (first + rest)[:14] == _LINES[:14]


async def test_a_source_that_gives_nothing_holds_no_process(transforms: Transforms) -> None:
    plan = transforms.plan(["lines-process"], Content.of(None))
    async with transforms.run(_lines(ends=False), plan) as waiting:
        await anext(waiting)
        with trio.fail_after(PATIENCE):
            async with transforms.run(_lines(), plan) as out:
                assert b"".join([chunk async for chunk in out]) == _LINES


async def _endless() -> AsyncGenerator[bytes]:
    while True:
        await trio.lowlevel.checkpoint()
        yield _LINES


@pytest.mark.parametrize("chunks", [0, 1, 30])
async def test_who_leaves_leaves_nothing_and_the_process_serves_the_next(transforms: Transforms, chunks: int) -> None:
    plan = transforms.plan(["lines-process"], Content.of(None))
    async with transforms.run(_endless(), plan) as out:
        for _ in range(chunks):
            await anext(out)
    async with transforms.run(_lines(), plan) as out:
        assert b"".join([chunk async for chunk in out]) == _LINES


async def test_a_process_that_is_killed_ends_the_stream_as_an_error(transforms: Transforms) -> None:
    plan = transforms.plan(["lines-process"], Content.of(None))
    pid = 0
    with pytest.raises(ProcessDied):
        async with transforms.run(_with_place(), plan) as out:
            async for chunk in out:
                if not pid:
                    pid = int(chunk.split()[0])
                    os.kill(pid, signal.SIGKILL)
    async with transforms.run(_lines(), plan) as out:
        assert b"".join([chunk async for chunk in out]) == _LINES


async def _with_place() -> AsyncGenerator[bytes]:
    yield b"place\n"
    while True:
        await trio.lowlevel.checkpoint()
        yield _LINES


@pytest.mark.parametrize("made", [0, 1, 3])
async def test_where_no_pipe_can_be_had_it_is_overloaded_and_nothing_is_left(transforms: Transforms, made: int) -> None:
    pipes = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(made)]
    plan = transforms.plan(["lines-process", "lines-thread", "lines-process"], Content.of(None))
    none = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with mock.patch("app.transforms.in_processes.os.pipe2", side_effect=[*pipes, none]), pytest.raises(Overloaded):
        async with transforms.run(_lines(), plan):
            pass


async def test_what_nobody_takes_is_not_sent_back_to_a_process(transforms: Transforms) -> None:
    sent: list[int] = []
    has_left = trio.Event()
    run = transforms._processes.run

    async def watched(call: object, now: Progress, *rest: object, **more: float) -> Progress:
        sent.append(len(now.left))
        after: Progress = await run(call, now, *rest, **more)  # type: ignore[arg-type]
        if after.left:
            has_left.set()
        return after

    async def source() -> AsyncGenerator[bytes]:
        yield b"many:8388608\n"

    with mock.patch.object(transforms._processes, "run", watched):
        async with transforms.run(source(), transforms.plan(["lines-process"], Content.of(None))) as out:
            with trio.fail_after(PATIENCE):
                await has_left.wait()
            assert sum([len(chunk) async for chunk in out]) == 8_388_608
    assert set(sent) == {0}
