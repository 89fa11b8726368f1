"""Transformers one behind the other, fed as one. No Trio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from app.transforms.step import Transformer


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
