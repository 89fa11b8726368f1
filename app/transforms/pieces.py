"""Bytes cut into pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from app.transforms.step import PIECE_BYTES


def cut(data: bytes, size: int = PIECE_BYTES) -> Iterator[bytes]:
    """``data`` in pieces of ``size`` bytes, the last one shorter; what is not longer comes back as it is."""
    if len(data) <= size:
        return iter((data,) if data else ())
    return (data[start : start + size] for start in range(0, len(data), size))


def even(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces of one size, which is at most 1.5 times `PIECE_BYTES`: a little more makes no tiny piece."""
    count = max(1, round(len(data) / PIECE_BYTES))
    return cut(data, -(-len(data) // count))
