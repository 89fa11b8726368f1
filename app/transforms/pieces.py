"""How much at once: pieces that come in cut small enough to work on, and results cut into pieces to give."""

from __future__ import annotations

from collections.abc import Iterator

from app.transforms.step import PIECE_BYTES

SLICE_BYTES = 64 * 1024
"""What is worked on at once: with its result it stays in a core's cache, and a result twice its size is a piece."""


def slices(piece: bytes) -> Iterator[bytes]:
    """``piece`` in parts of `SLICE_BYTES` at most."""
    if len(piece) <= SLICE_BYTES:
        yield piece
        return
    for start in range(0, len(piece), SLICE_BYTES):
        yield piece[start : start + SLICE_BYTES]


def in_pieces(result: bytes) -> Iterator[bytes]:
    """``result`` in pieces of twice `PIECE_BYTES` at most; none where it is empty."""
    if len(result) > 2 * PIECE_BYTES:
        for start in range(0, len(result), PIECE_BYTES):
            yield result[start : start + PIECE_BYTES]
    elif result:
        yield result
