"""A chain in worker processes, turn by turn: what a worker does with what is in one pipe, into another. No Trio."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import ExpansionTooLarge
from app.transforms.chain import feed, finish, is_done
from app.transforms.step import Transformer

# After this a worker is the next one's; and where for so long nothing came, or nobody took what there is.
_TURN_SECONDS = 0.02
_PATIENCE_SECONDS = 0.002
# What may flow of one slice: little that makes much is taken in small ones.
_FLOW_BYTES = 1024 * 1024
_FIRST_SLICE, _LEAST_SLICE, _LARGEST_SLICE = 4096, 1024, 256 * 1024


@dataclass(slots=True)
class Progress:
    """A chain between two turns.

    given: bytes that each of its transformers has given; flowed: all of them. most: what may have flowed by now, and
    ``expansion`` times as much more as it is fed in the turn. slice_bytes: how much it is fed at once, by how much that
    makes flow. left: what the last turn gave that nobody took, to be passed on before the next one. finished: whether
    it gives no more.
    """

    chain: Sequence[Transformer]
    given: list[int]
    most: float = math.inf
    expansion: float = math.inf
    slice_bytes: int = _FIRST_SLICE
    left: list[bytes] = field(default_factory=list[bytes])
    finished: bool = False

    @property
    def flowed(self) -> int:
        return sum(self.given)


def turn(progress: Progress, server: int, source: int, sink: int) -> Progress:
    """Feeds what comes from ``source``, to its end, and writes what that gives to ``sink``; and how things stand then.

    server: the process that has these pipes open, as these descriptors.

    Bound: a slice, and what it gives where nobody takes that. It ends soon where nothing comes, or nobody takes, and
    with the first slice after `_TURN_SECONDS`; what is left in ``source`` is there for the next turn.
    *Errors*: those of the chain, and ExpansionTooLarge.
    """
    with _opened(server, source, os.O_RDONLY) as taken, _opened(server, sink, os.O_WRONLY) as given:
        until = time.monotonic() + _TURN_SECONDS
        while not (progress.left or progress.finished) and time.monotonic() < until:
            piece = b"" if is_done(progress.chain) else _take(taken, progress.slice_bytes)
            if piece is None:
                break
            progress.left = _put(given, _worked_on(progress, piece))
            progress.finished = not piece
    return progress


def _worked_on(progress: Progress, piece: bytes) -> Generator[bytes]:
    """What a piece gives, or the end."""
    if not piece:
        yield from _allowed(progress, finish(progress.chain, progress.given))
        return
    before = progress.flowed
    progress.most += progress.expansion * len(piece)
    yield from _allowed(progress, feed(progress.chain, piece, progress.given))
    growth = max(1.0, (progress.flowed - before) / len(piece))
    fits = min(2 * progress.slice_bytes, int(_FLOW_BYTES / growth), _LARGEST_SLICE)
    progress.slice_bytes = max(_LEAST_SLICE, fits)


def _allowed(progress: Progress, pieces: Iterable[bytes]) -> Generator[bytes]:
    """*Errors*: ExpansionTooLarge. (Before they are many: where nobody takes them they stay here.)"""
    for piece in pieces:
        if progress.flowed > progress.most:
            raise ExpansionTooLarge(
                f"the body becomes more than {progress.most:.0f} bytes on the way through the steps"
            )
        yield piece


def _take(source: int, most: int) -> bytes | None:
    """Nothing at the end; None where nothing comes."""
    ready, _, _ = select.select([source], [], [], _PATIENCE_SECONDS)
    return os.read(source, most) if ready else None


def _put(sink: int, pieces: Iterable[bytes]) -> list[bytes]:
    """What is left of ``pieces`` where nobody takes them."""
    left: list[bytes] = []
    for piece in pieces:
        rest = piece if left else _write(sink, piece)
        if rest:
            left.append(rest)
    return left


def _write(sink: int, piece: bytes) -> bytes:
    """What is left of it."""
    written = 0
    with memoryview(piece) as whole:
        while written < len(whole):
            try:
                written += os.write(sink, whole[written:])
            except BlockingIOError:
                if not select.select([], [sink], [], _PATIENCE_SECONDS)[1]:
                    break
    return piece[written:]


@contextmanager
def _opened(process: int, descriptor: int, flags: int) -> Generator[int]:
    opened = os.open(f"/proc/{process}/fd/{descriptor}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)
