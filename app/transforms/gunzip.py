"""gzip (RFC 1952), undone as it comes. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from app.transforms.decompression import Decompressor, Unit
from app.transforms.step import PIECE_BYTES, Malformed

_MAGIC = b"\x1f\x8b"


class Gunzip(Decompressor):
    """gzip's members, as gzip(1) reads them: zeros may follow the last one.

    Bound: 32 KiB of window, and a piece in and a piece out.
    """

    def __init__(self, max_expansion: float) -> None:
        super().__init__("gzip member", zlib.error, max_expansion)

    def _head_length(self, head: bytes) -> int:
        if self._begin and head[0] == 0:
            return 1
        if not head.startswith(_MAGIC[: len(head)]):
            self._refuse_begin()
        return len(_MAGIC)

    def _unit_of(self, head: bytes) -> Unit:
        if head[0] == 0:
            self._head = b""
            return _Padding(self._begin + len(head))
        return _GzipMember()


class _GzipMember:
    may_end = False

    def __init__(self) -> None:
        self.unused: int | None = None
        self._library = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data:  # the member's trailer is always behind what is to come out yet: nothing stays inside
            piece = self._library.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            if self._library.eof:
                self.unused = len(self._library.unused_data)
                return
            data = self._library.unconsumed_tail


class _Padding:
    """Zeros up to the end. *Errors*: Malformed."""

    may_end = True
    unused: int | None = None

    def __init__(self, begin: int) -> None:
        self._at = begin

    def pieces(self, data: bytes) -> Iterator[bytes]:
        other = data.lstrip(b"\0")
        self._at += len(data) - len(other)
        if other:
            detail = f"bytes behind the zeros that follow the last gzip member, at byte {self._at}"
            raise Malformed(detail, members={"offset": self._at})
        return iter(())
