"""What the tests of steps share: a stream that is cut anyhow, run through a transformer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypothesis import strategies as st

from app.transforms.step import PIECE_BYTES, Transformer


def run(transformer: Transformer, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces that come out, each checked to be neither empty nor large."""
    for piece in pieces:
        yield from map(checked, transformer.feed(piece))
    yield from map(checked, transformer.finish())


def checked(piece: bytes) -> bytes:
    assert 0 < len(piece) <= 1.5 * PIECE_BYTES
    return piece


def result(transformer: Transformer, pieces: Iterable[bytes]) -> bytes:
    return b"".join(run(transformer, pieces))


def every(whole: bytes, size: int = 1) -> list[bytes]:
    """``whole`` in pieces of ``size`` bytes."""
    return [whole[start : start + size] for start in range(0, len(whole), size)]


@st.composite
def cuts(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """``whole`` in pieces, cut anywhere; empty ones among them."""
    borders = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[start:stop] for start, stop in zip([0, *borders], [*borders, len(whole)], strict=True)]
