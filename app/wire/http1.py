"""HTTP/1.1 as a server reads it (RFC 9112): bytes in, heads and bodies out. Pure.

Where a recipient may choose between repairing and refusing, this one refuses: what two hops may read differently is how
requests are smuggled (RFC 9112 11.2). Bodies are counted here, since llhttp, which has its say about each head, cannot
tell where a message ended.
"""

from __future__ import annotations

from typing import NoReturn

from app.errors import BadRequest, HeadTooLarge, SluiceError, TargetTooLong
from app.wire.chunked import Chunks
from app.wire.fields import TOO_LONG, Buffer, Field, begins_with_token, section_length, shown
from app.wire.request_heads import HeadParser, RequestHead

__all__ = ["PREFACE", "Inbound", "RequestHead"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client that speaks HTTP/2 with prior knowledge sends first (RFC 9113 3.4)."""


class Inbound:
    """What one client sends: heads and bodies out of a stream of bytes, one message after the other.

    max_head_bytes: of a head, its request line and its empty line included; of a trailer section likewise.
    max_head_fields: of a head, and of a trailer section.
    last_head: the bytes of the head that ``next_head`` returned last, without an empty line before it.
    left: bytes of the current body that were not taken; None where that is unknown: chunked and unfinished, or after an
    error. trailers: of that body, if it is chunked; known when nothing is left.

    It holds what it is fed until that is taken; the caller bounds it by not feeding more before. All calls are bounded
    by the bytes that are new, so that a stream of single bytes costs no more than its length.

    *Errors*: BadRequest, TargetTooLong, HeadTooLarge, NotImplementedHere, VersionNotSupported; the same ones wherever
    the stream was cut. After one of them every call raises BadRequest: where the next message begins is not known.
    """

    def __init__(self, max_head_bytes: int, max_head_fields: int) -> None:
        self.last_head = b""
        self.trailers: list[Field] = []
        self._max_head_bytes = max_head_bytes
        self._max_head_fields = max_head_fields
        self._buffer: Buffer = b""  # bytes while one piece is enough, which then goes out without being copied
        self._at = 0  # what lies before it is taken
        self._scanned = 0  # bytes of the unfinished head that hold no end of it
        self.left: int | None = 0
        self._chunks: Chunks | None = None
        self._opening = True  # no message yet: the HTTP/2 preface may come
        self._skipped = False  # the one empty line before a head
        self._dead = False
        self._heads = HeadParser(max_head_fields)

    # -- what was received ---------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Takes what was received, of any length.

        Errors: BadRequest after an earlier error.
        """
        if self._dead:
            self._refuse_dead()
        if self._at >= len(self._buffer):
            self._buffer = data
        else:
            if isinstance(self._buffer, bytearray):
                del self._buffer[: self._at]
            else:
                self._buffer = bytearray(memoryview(self._buffer)[self._at :])
            self._buffer += data
        self._at = 0

    @property
    def buffered(self) -> int:
        """Bytes held that were not taken."""
        return len(self._buffer) - self._at

    @property
    def cut_short(self) -> bool:
        """Whether what `next_body` gave last was less than is there, as it were too many chunks for one go."""
        return self._chunks is not None and self._chunks.cut_short

    def rest(self) -> bytes:
        """What was fed and not taken as head or body, for handing the connection over. It stays where it is.

        Errors: BadRequest after an earlier error.
        """
        if self._dead:
            self._refuse_dead()
        return self._cut(self._at, len(self._buffer))

    # -- heads ---------------------------------------------------------------------------------------------------------

    @property
    def head_begun(self) -> bool:
        """Whether bytes of an unfinished head are there, other than the empty line that may come before it."""
        first = self._buffer[self._at : self._at + 3]
        if self.left != 0 or not first:
            return False
        return len(first) > 2 or self._skipped or not b"\r\n".startswith(first)

    @property
    def preface(self) -> bool:
        """Whether the connection begins with the HTTP/2 preface, as far as it is there."""
        first = self._buffer[self._at : self._at + len(PREFACE)]
        return self._opening and len(first) > 0 and PREFACE.startswith(first)

    @property
    def is_http2(self) -> bool:
        """Whether the whole HTTP/2 preface is there."""
        return self._opening and self._buffer.startswith(PREFACE, self._at)

    def next_head(self) -> RequestHead | None:
        """The next request; None where more bytes are needed, and once the connection ``is_http2``.

        An empty line before it is skipped (RFC 9112 2.2), but not a second one.

        Errors: see the class; RuntimeError before the end of the previous body.
        """
        if self.left != 0:
            if not self._dead:
                raise RuntimeError("the previous body was not taken to its end")
            self._refuse_dead()
        try:
            if self._opening and self.preface:
                return None
            length = self._head_length()
            if not length:
                return None
            raw = self._cut(self._at, self._at + length)
            head = self._heads.parse(raw)
        except SluiceError:
            self._die()
            raise
        self._at += length
        self._scanned = 0
        self._opening = self._skipped = False
        self.last_head = raw
        if head.chunked:
            self.left, self._chunks = None, Chunks(self._max_head_bytes, self._max_head_fields)
        else:
            self.left = head.content_length or 0
        if self.trailers:
            self.trailers = []
        return head

    def _head_length(self) -> int:
        """Bytes of the head at ``_at``, 0 while it is unfinished."""
        buffer, at = self._buffer, self._at
        if not self._skipped and buffer.startswith(b"\r\n", at):
            self._skipped, self._opening = True, False
            self._at = at = at + 2
        if at == len(buffer):
            return 0
        length = section_length(buffer, at, self._scanned, self._max_head_bytes)
        if length > 0:
            return length
        # No need to wait for the end of what begins with no method, such as a TLS handshake.
        if not begins_with_token(buffer, at) and (self._skipped or buffer[at:] != b"\r"):
            raise BadRequest(f"not a request line: {shown(buffer[at : at + 64])}")
        if length == TOO_LONG:
            if buffer.find(b"\r\n", at, at + self._max_head_bytes) < 0:
                raise TargetTooLong(f"the request line has more than {self._max_head_bytes} bytes")
            raise HeadTooLarge(f"the head has more than {self._max_head_bytes} bytes")
        self._scanned = len(buffer) - at
        return 0

    # -- bodies --------------------------------------------------------------------------------------------------------

    def next_body(self, limit: int) -> bytes | None:
        """Between 1 and ``limit`` (at least 1) bytes of body; b"" at its end, again and again; None: more are needed.

        Errors: see the class; ValueError for a ``limit`` below 1.
        """
        if limit < 1:
            raise ValueError("limit must be at least 1")
        left = self.left
        if left == 0:
            return b""
        if left is None:
            return self._next_decoded(limit)
        at = self._at
        size = min(limit, left, len(self._buffer) - at)
        if not size:
            return None
        self.left = left - size
        self._at = at + size
        return self._cut(at, at + size)

    def _next_decoded(self, limit: int) -> bytes | None:
        if self._chunks is None:
            self._refuse_dead()
        try:
            data, self._at = self._chunks.take(self._buffer, self._at, limit)
        except SluiceError:
            self._die()
            raise
        if self._chunks.done:
            self.trailers = self._chunks.trailers
            self.left, self._chunks = 0, None
        return data

    # -- inside --------------------------------------------------------------------------------------------------------

    def _cut(self, start: int, stop: int) -> bytes:
        buffer = self._buffer
        return buffer[start:stop] if isinstance(buffer, bytes) else bytes(memoryview(buffer)[start:stop])

    def _die(self) -> None:
        self._buffer, self._at = b"", 0
        self.left = self._chunks = None
        self._dead, self._opening = True, False

    def _refuse_dead(self) -> NoReturn:
        raise BadRequest("nothing is read behind a request that was refused")
