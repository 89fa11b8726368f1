"""Transformers one behind the other, fed as one. No Trio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.transforms.step import Transformer

_BUDGET_BYTES = 1024 * 1024
_LEAST_SLICE = 4096


def feed(chain: Sequence[Transformer], piece: bytes) -> Iterator[bytes]:
    """What ``piece`` gives, through all of them."""
    return _through_all(chain, (piece,))


def finish(chain: Sequence[Transformer]) -> Iterator[bytes]:
    """What the end of the stream gives. Those before one that is done are not asked: nobody wants what they have."""
    for index in range(_first_that_matters(chain), len(chain)):
        yield from _through_all(chain[index + 1 :], chain[index].finish())


def is_done(chain: Sequence[Transformer]) -> bool:
    """Whether nothing of what may still come matters."""
    return any(transformer.done for transformer in chain)


@dataclass(slots=True)
class Progress:
    """A chain between two goes in worker processes. slice_bytes: how much it is fed at once, by how much it gives."""

    chain: list[Transformer]
    slice_bytes: int = 64 * 1024


def advance(progress: Progress, piece: bytes, *, last: bool) -> tuple[Progress, list[bytes], int]:
    """One go in a worker process: how things stand then, what came out, and how much of ``piece`` was taken.

    Bound: it stops taking once `_BUDGET_BYTES` have come out, so that little that gives much is given in parts.
    """
    chain, out = progress.chain, list[bytes]()
    size = taken = 0
    while taken < len(piece) and size < _BUDGET_BYTES and not is_done(chain):
        before = size
        part = piece[taken : taken + progress.slice_bytes]
        for given in feed(chain, part):
            out.append(given)
            size += len(given)
        taken += len(part)
        growth = max(1.0, (size - before) / len(part))
        progress.slice_bytes = max(_LEAST_SLICE, int(_BUDGET_BYTES / growth))
    if is_done(chain):
        taken = len(piece)
    if last and taken == len(piece):
        out.extend(finish(chain))
    return progress, out, taken


def _first_that_matters(chain: Sequence[Transformer]) -> int:
    return max((index for index, transformer in enumerate(chain) if transformer.done), default=0)


def _through_all(chain: Sequence[Transformer], pieces: Iterable[bytes]) -> Iterator[bytes]:
    for transformer in chain:
        pieces = _through(transformer, pieces)
    return iter(pieces)


def _through(transformer: Transformer, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if transformer.done:
            return
        yield from transformer.feed(piece)
