"""The chunked transfer coding (RFC 9112 7.1), decoded as it is pulled. Pure."""

from __future__ import annotations

import re
from enum import Enum, auto

from app.errors import BadRequest, HeadTooLarge
from app.wire.fields import TOO_LONG, Buffer, Field, parse_section, section_length, shown

# Stricter than most: no white space around the size, at most 64 bits of it, no control characters in extensions.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*+)?+\r\n")
_SIZE_LINE_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]{1,16}+(?:;[\t\x20-\x7e\x80-\xff]*+)?+\r?+)?+")
_LONGEST_LINE = 1024 + 2
_MOST_EXTENSIONS = 16 * 1024
MOST_AT_ONCE = 256
"""Chunks that are taken in one go: however small they are, others get their turn."""

# What frames, routes, authenticates, controls or describes content is no trailer's business (RFC 9110 6.5.1).
_NOT_IN_TRAILERS = frozenset(
    b"authorization cache-control connection content-encoding content-length content-range content-type cookie expect "
    b"forwarded host if-match if-modified-since if-none-match if-range if-unmodified-since keep-alive max-forwards "
    b"pragma proxy-authorization proxy-connection range set-cookie te trailer transfer-encoding upgrade".split()
)
_FRAMING = {b"content-length": re.compile(rb"[0-9]{1,18}"), b"transfer-encoding": re.compile(rb"(?i:chunked)")}


class _Next(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    NOTHING = auto()


class Chunks:
    """One chunked body.

    max_trailer_bytes, max_trailer_fields: bounds of its trailer section. A size line has at most 1024 bytes, the
    extensions of the whole body at most 16 KiB; beyond either the body is refused.
    trailers: known once ``done``; names in lower case, without those that no trailer may carry. cut_short: whether more
    of the body may be there than was taken last, as that were `MOST_AT_ONCE` chunks.
    """

    def __init__(self, max_trailer_bytes: int, max_trailer_fields: int) -> None:
        self.trailers: list[Field] = []
        self.cut_short = False
        self._max_trailer_bytes = max_trailer_bytes
        self._max_trailer_fields = max_trailer_fields
        self._next = _Next.SIZE
        self._left = 0  # of the current chunk's data
        self._extensions = 0
        self._scanned = 0  # of the trailers, relative to their begin

    @property
    def done(self) -> bool:
        """Whether the body was taken to its end, trailers included."""
        return self._next is _Next.NOTHING

    def take(self, buffer: Buffer, at: int, limit: int) -> tuple[bytes | None, int]:
        """At most ``limit`` bytes of the body, of `MOST_AT_ONCE` chunks, out of ``buffer`` from ``at`` on, and where to
        go on.

        The bytes are b"" at the body's end, None where more input is needed.

        Errors: BadRequest; HeadTooLarge for the trailers. Nothing may be taken afterwards.
        """
        parts: list[bytes] = []
        while limit and self._next is not _Next.NOTHING and len(parts) < MOST_AT_ONCE:
            if self._next is _Next.DATA:
                stop = min(len(buffer), at + min(limit, self._left))
                if stop == at:
                    break
                parts.append(bytes(memoryview(buffer)[at:stop]))
                limit -= stop - at
                self._left -= stop - at
                if not self._left:
                    self._next = _Next.DATA_END
            elif (stop := self._frame(buffer, at)) == at:
                break
            at = stop
        self.cut_short = len(parts) == MOST_AT_ONCE
        return (b"".join(parts) if parts or self.done else None), at

    def _frame(self, buffer: Buffer, at: int) -> int:
        """Takes one piece of framing, and says where it ends: at ``at`` itself while it is not wholly there."""
        match self._next:
            case _Next.SIZE:
                return self._size_line(buffer, at)
            case _Next.DATA_END:
                if buffer.startswith(b"\r\n", at):
                    self._next = _Next.SIZE
                    return at + 2
                if not b"\r\n".startswith(buffer[at : at + 2]):
                    raise BadRequest("no CRLF behind the data of a chunk")
                return at
            case _:
                return self._trailer_section(buffer, at)

    def _size_line(self, buffer: Buffer, at: int) -> int:
        line = _SIZE_LINE.match(buffer, at, at + _LONGEST_LINE)
        if line is None:
            # What cannot become a size line any more is refused at once, rather than when its LF arrives.
            if len(buffer) - at >= _LONGEST_LINE or not _SIZE_LINE_BEGUN.fullmatch(buffer, at):
                raise BadRequest(f"not the size of a chunk: {shown(buffer[at : at + 64])}")
            return at
        self._extensions += len(line[2] or b"")
        if self._extensions > _MOST_EXTENSIONS:
            raise BadRequest("more than 16 KiB of chunk extensions")
        self._left = int(line[1], 16)
        self._next = _Next.DATA if self._left else _Next.TRAILERS
        return line.end()

    def _trailer_section(self, buffer: Buffer, at: int) -> int:
        length = (
            2 if buffer.startswith(b"\r\n", at) else section_length(buffer, at, self._scanned, self._max_trailer_bytes)
        )
        if length == TOO_LONG:
            raise HeadTooLarge(f"the trailers have more than {self._max_trailer_bytes} bytes")
        if not length:
            self._scanned = len(buffer) - at
            return at
        self.trailers = self._admitted(parse_section(bytes(memoryview(buffer)[at : at + length])))
        self._next = _Next.NOTHING
        return at + length

    def _admitted(self, fields: list[Field]) -> list[Field]:
        if len(fields) > self._max_trailer_fields:
            raise HeadTooLarge(f"more than {self._max_trailer_fields} trailers")
        framing = [field for field in fields if field[0] in _FRAMING]
        for number, (name, value) in enumerate(framing):
            # Dropped below; but whoever sends these ill-formed or twice tries how we and another hop differ.
            if not _FRAMING[name].fullmatch(value) or any(name == other for other, _ in framing[:number]):
                raise BadRequest(f"{name.decode()} among the trailers: {shown(value)}")
        return [field for field in fields if field[0] not in _NOT_IN_TRAILERS]
