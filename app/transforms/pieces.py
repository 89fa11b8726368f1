"""How much at once: pieces that come in cut small enough to work on, and results cut into pieces to give. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from app.transforms.step import PIECE_BYTES

SLICE_BYTES = 64 * 1024
"""What is worked on at once: with its result it stays in a core's cache, and a result twice its size is a piece."""


def cut(data: bytes, size: int = PIECE_BYTES) -> Iterator[bytes]:
    """``data`` in pieces of ``size`` bytes, the last one shorter; what is not longer comes back as it is."""
    if len(data) <= size:
        return iter((data,) if data else ())
    return (data[start : start + size] for start in range(0, len(data), size))


def slices(piece: bytes) -> Iterator[bytes]:
    """``piece`` in parts of `SLICE_BYTES` at most."""
    return cut(piece, SLICE_BYTES)


def in_pieces(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces of one size, which is at most 1.5 times `PIECE_BYTES`: a little more makes no tiny piece."""
    count = max(1, round(len(data) / PIECE_BYTES))
    return cut(data, -(-len(data) // count))
