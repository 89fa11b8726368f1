"""Regular CSV as NDJSON by putting JSON in the place of its delimiters: no field is looked at on its own."""

from __future__ import annotations

import msgspec

# NumPy takes longer to load than it saves on less.
LEAST_BYTES = 16 * 1024
# What a block may become: past that its rows are written one after the other.
_MOST_BYTES = 1024 * 1024
# What no UTF-8 has (RFC 3629, 1), and so can stand for the first delimiter of a row, the second, and so on.
_MARKS = bytes((0xC0, 0xC1, *range(0xF5, 0x100)))
_LINE_FEED, _FIRST_PRINTABLE = 0x0A, 0x20


class CsvSubstitution:
    """The texts that stand before the fields of a row in JSON, for a header of few names.

    names: of the fields, each once.
    """

    def __init__(self, names: tuple[str, ...], delimiter: str) -> None:
        first, *others = map(msgspec.json.encode, names)
        self._width, self._delimiter = len(names), ord(delimiter)
        self._before_first = b'"}\n{' + first + b':"'
        self._before = [b'",' + name + b':"' for name in others]
        self._marks = [_MARKS[at : at + 1] for at in range(len(others))]
        self._growth = len(self._before_first) + sum(map(len, self._before))

    def lines(self, block: bytes) -> bytes | None:
        """A block of complete records as NDJSON; None where it is short, would become too much, has rows of another
        width, or has anything that is quoted, to be escaped, or wrong."""
        if len(block) < LEAST_BYTES or not 1 < self._width <= len(_MARKS) + 1 or b'"' in block or b"\\" in block:
            return None
        marked = self._marked(block.replace(b"\r\n", b"\n") if b"\r" in block else block)
        if marked is None:
            return None
        for mark, before in zip(self._marks, self._before, strict=True):
            marked = marked.replace(mark, before)
        first, end = self._before_first, b'"}\n'
        return b"".join((first[len(end) :], marked.replace(b"\n", first)[: len(end) - len(first)]))

    def _marked(self, block: bytes) -> bytearray | None:
        """The block with marks in the place of its delimiters."""
        import numpy as np  # noqa: PLC0415 - takes long to load, and not each process needs it

        marked = bytearray(block)
        text = np.frombuffer(marked, np.uint8)
        line_feeds = text == _LINE_FEED
        rows = int(np.count_nonzero(line_feeds))
        ends = np.flatnonzero(line_feeds | (text == self._delimiter))
        controls = len(ends) if self._delimiter < _FIRST_PRINTABLE else rows
        regular = len(ends) == rows * self._width and line_feeds[ends[self._width - 1 :: self._width]].all()
        if not regular or np.count_nonzero(text < _FIRST_PRINTABLE) != controls:
            return None
        if len(block) + rows * self._growth > _MOST_BYTES or not _is_utf_8(block):
            return None
        np.put(text, ends, np.frombuffer(b"".join((*self._marks, b"\n")), np.uint8))
        return marked


def _is_utf_8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode())
    except UnicodeDecodeError:
        return False
