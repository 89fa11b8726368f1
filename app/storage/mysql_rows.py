"""Answers of MySQL to queries, read in one go. Pure.

The driver reads an answer packet by packet, and works out anew what its columns are. The same queries come again and
again, and what the server says of their columns is the same to the byte: an answer that begins so needs but its rows
read. Whatever is not just that is left to the driver.

Source: MySQL's internals, "Text Resultset".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.storage.database import Row, Rows

type Converters = Sequence[tuple[str | None, Callable[[Any], Any] | None]]

# Of a packet: its length, little-endian, and its number.
_HEADER_BYTES = 4
_EOF = 0xFE
_EOF_BYTES = 5
_ERROR = 0xFF
# What a length is that stands for something else (NULL), or is that many bytes long.
_NULL = 0xFB
_WIDE = {0xFC: 2, 0xFD: 3, 0xFE: 8}
_MORE_RESULTS = 0x08


@dataclass(frozen=True)
class Shape:
    """What answers to a query begin with.

    head: the packets that say how many columns there are, and what. converters: of each column, the encoding of its
    text and what makes a value of that.
    """

    head: bytes
    converters: Converters

    def rows(self, answer: bytes) -> Rows | None:
        """The rows of ``answer``; None unless it is whole, alone and of this shape."""
        if not answer.startswith(self.head):
            return None
        number = len(self.converters) + 2
        at = len(self.head)
        if not _is_eof(answer, at, number):
            return None
        at += _HEADER_BYTES + _EOF_BYTES
        rows: Rows = []
        try:
            while True:
                number = (number + 1) % 256
                if _is_eof(answer, at, number):
                    last = at + _HEADER_BYTES + _EOF_BYTES == len(answer)
                    return rows if last and not answer[-2] & _MORE_RESULTS else None
                start = at + _HEADER_BYTES
                end = start + int.from_bytes(answer[at : at + 3], "little")
                if answer[start - 1] != number or answer[start] == _ERROR or end > len(answer):
                    return None
                row = self._row(answer, start, end)
                if row is None:
                    return None
                rows.append(row)
                at = end
        except (IndexError, ValueError):  # cut short, or a text that is none
            return None

    def _row(self, answer: bytes, at: int, end: int) -> Row | None:
        row: list[Any] = []
        for encoding, convert in self.converters:
            length = answer[at]
            at += 1
            if length == _NULL:
                row.append(None)
                continue
            if length > _NULL:
                width = _WIDE.get(length, end)
                length = int.from_bytes(answer[at : at + width], "little")
                at += width
            value: Any = answer[at : at + length]
            at += length
            if encoding is not None:
                value = value.decode(encoding)
            row.append(value if convert is None else convert(value))
        return tuple(row) if at == end else None


def shape_of(answer: bytes, converters: Converters, rows: Rows) -> Shape | None:
    """The shape of an ``answer`` from which the driver has read ``rows``; None where we would not read just those."""
    at = 0
    for _ in range(len(converters) + 1):
        at += _HEADER_BYTES + int.from_bytes(answer[at : at + 3], "little")
    shape = Shape(answer[:at], tuple(converters))
    return shape if shape.rows(answer) == rows else None


def _is_eof(answer: bytes, at: int, number: int) -> bool:
    """Whether packet ``number`` begins at ``at``, and is the end of the columns or of the rows."""
    return answer[at : at + 5] == b"\x05\0\0%c\xfe" % number
