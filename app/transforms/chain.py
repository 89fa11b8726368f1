"""Transformers one behind the other, fed as one. No Trio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.transforms.step import Transformer

_BUDGET_BYTES = 1024 * 1024
_FIRST_SLICE, _LEAST_SLICE = 4096, 1024


def feed(chain: Sequence[Transformer], piece: bytes, given: list[int] | None = None) -> Iterator[bytes]:
    """What ``piece`` gives, through all of them. given: to each of its numbers what that transformer gives is added."""
    return _through_all(chain, (piece,), given)


def finish(chain: Sequence[Transformer], given: list[int] | None = None) -> Iterator[bytes]:
    """What the end of the stream gives. Those before one that is done are not asked: nobody wants what they have."""
    for index in range(_first_that_matters(chain), len(chain)):
        pieces = chain[index].finish()
        if given is not None:
            pieces = _counted(pieces, given, index)
        yield from _through_all(chain, pieces, given, index + 1)


def is_done(chain: Sequence[Transformer]) -> bool:
    """Whether nothing of what may still come matters."""
    return any(transformer.done for transformer in chain)


@dataclass(slots=True)
class Progress:
    """A chain between two goes in worker processes.

    given: bytes that each of its transformers has given; flowed: all of them. slice_bytes: how much it is fed at once,
    by how much that makes flow.
    """

    chain: list[Transformer]
    given: list[int]
    slice_bytes: int = _FIRST_SLICE

    @property
    def flowed(self) -> int:
        return sum(self.given)


def advance(progress: Progress, piece: bytes, *, last: bool) -> tuple[Progress, list[bytes], int]:
    """One go in a worker process: how things stand then, what came out, and how much of ``piece`` was taken.

    Bound: it stops taking once `_BUDGET_BYTES` have flowed, so that little that makes much is worked on in parts.
    """
    chain, out = progress.chain, list[bytes]()
    began = progress.flowed
    taken = 0
    while taken < len(piece) and progress.flowed - began < _BUDGET_BYTES and not is_done(chain):
        before = progress.flowed
        part = piece[taken : taken + progress.slice_bytes]
        out.extend(feed(chain, part, progress.given))
        taken += len(part)
        growth = max(1.0, (progress.flowed - before) / len(part))
        progress.slice_bytes = max(_LEAST_SLICE, min(2 * progress.slice_bytes, int(_BUDGET_BYTES / growth)))
    if is_done(chain):
        taken = len(piece)
    if last and taken == len(piece):
        out.extend(finish(chain, progress.given))
    return progress, out, taken


def _first_that_matters(chain: Sequence[Transformer]) -> int:
    return max((index for index, transformer in enumerate(chain) if transformer.done), default=0)


def _through_all(
    chain: Sequence[Transformer], pieces: Iterable[bytes], given: list[int] | None, first: int = 0
) -> Iterator[bytes]:
    for index in range(first, len(chain)):
        pieces = _through(chain[index], pieces)
        if given is not None:
            pieces = _counted(pieces, given, index)
    return iter(pieces)


def _through(transformer: Transformer, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if transformer.done:
            return
        yield from transformer.feed(piece)


def _counted(pieces: Iterable[bytes], given: list[int], index: int) -> Iterator[bytes]:
    for piece in pieces:
        given[index] += len(piece)
        yield piece
