"""The limits of a JSON text's structure, checked as its bytes arrive: depth, length of strings, number of members."""

from __future__ import annotations

from itertools import accumulate
from operator import add

from app.errors import BadJson

MOST_DEPTH = 64

_PIECE = 64 * 1024
_OTHER = bytes(set(range(256)).difference(b'":[]{}'))
_BRACKETS = bytes.maketrans(b"{}", b"[]")


class JsonStructure:
    """Limits for a text that is parsed later, when all of it is there.

    It tells only what a parser must not be given. What it lets pass may be no JSON; but up to where a parser would
    find that out, nothing is deeper, longer or more than the limits. The text is UTF-8.

    max_depth: of arrays and objects within each other. max_string: bytes between quotation marks, as they are written.
    max_keys: members of all objects together.

    Bound: it holds none of the text. A chunk costs a few passes over its bytes in C: measured, 64 KiB take 0.2 ms, and
    nothing but brackets, the slowest there is, 1 ms. The one that is refused costs twice that.

    *Errors*: BadJson with the offset of the first byte that is too much; the same however the text is cut into chunks.
    """

    def __init__(self, max_depth: int = MOST_DEPTH, max_string: int = 1024 * 1024, max_keys: int = 1_000_000) -> None:
        self._max_depth = max_depth
        self._max_string = max_string
        self._max_keys = max_keys
        # So that no string that begins and ends within a piece is too long.
        self._most = max(1, min(_PIECE, max_string))
        self._offset = 0
        self._depth = 0
        self._keys = 0
        self._in_string = False
        self._escaped = False
        self._length = 0  # of the string that has begun

    def feed(self, chunk: bytes) -> None:
        for start in range(0, len(chunk), self._most):  # of an empty one there is nothing to scan
            self._scan(chunk[start : start + self._most])

    def finish(self) -> None:
        """*Errors*: BadJson where the text ends in the middle."""
        if self._in_string:
            raise self._bad("the text ends within a string")
        if self._depth > 0:
            raise self._bad("the text ends before all arrays and objects do")

    def _scan(self, piece: bytes) -> None:
        """Goes past ``piece``; where something in it is too much, by halves, until that is found."""
        reason = self._advance(piece)
        if reason is None:
            return
        if len(piece) == 1:
            raise self._bad(reason)
        middle = len(piece) // 2
        self._scan(piece[:middle])
        self._scan(piece[middle:])

    def _bad(self, reason: str) -> BadJson:
        return BadJson(f"{reason} at byte {self._offset}", members={"offset": self._offset})

    def _advance(self, piece: bytes) -> str | None:
        """Goes past ``piece``, unless something in it is too much: what it is; then nothing has changed."""
        plain, escaped = self._without_escapes(piece)
        if self._in_string:
            end = plain.find(b'"')
            if self._length + (len(plain) if end < 0 else end) > self._max_string:
                return f"a string longer than {self._max_string} bytes"
        outside, in_string = _outside_strings(plain.translate(_BRACKETS, _OTHER), in_string=self._in_string)
        keys = self._keys + outside.count(b":")
        if keys > self._max_keys:
            return f"more than {self._max_keys} members"
        brackets = outside.translate(None, b":")
        if _climbs_past(brackets, self._max_depth - self._depth):
            return f"nested deeper than {self._max_depth}"
        self._offset += len(piece)
        self._depth += 2 * brackets.count(b"[") - len(brackets)
        self._keys = keys
        if in_string:
            start = plain.rfind(b'"')
            self._length = self._length + len(plain) if start < 0 else len(plain) - 1 - start
        self._in_string, self._escaped = in_string, escaped
        return None

    def _without_escapes(self, piece: bytes) -> tuple[bytes, bool]:
        """``piece`` without the quotation marks and backslashes that have a backslash before them, something else in
        their place; whether its end is one that goes with the next byte. Outside of strings too, where it is no JSON.
        """
        if self._escaped and piece.startswith((b'"', b"\\")):
            piece = b"_" + piece[1:]
        if b"\\" not in piece:
            return piece, False
        # From the left: of an odd number in a row the last one is left.
        piece = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        return piece, piece.endswith(b"\\")


def _outside_strings(structure: bytes, *, in_string: bool) -> tuple[bytes, bool]:
    """What of ``structure``, which is nothing but ``"``, ``:`` and brackets, is outside of strings; whether it ends in
    one."""
    # An empty string, or the end of one and the beginning of the next: neither changes on which side the others are.
    parts = structure.replace(b'""', b"").split(b'"')
    return b"".join(parts[in_string::2]), in_string ^ (len(parts) % 2 == 0)


def _climbs_past(brackets: bytes, most: int) -> bool:
    """Whether more than ``most`` of ``brackets``, which are nothing but ``[`` and ``]``, are open at once."""
    if brackets.count(b"[") <= most:
        return False
    # Eight of them in a byte, the rest filled up with what does not climb: what it adds, and its highest on the way.
    size = -(-len(brackets) // 8)
    packed = int(brackets.ljust(8 * size, b"]").translate(_AS_BITS), 2).to_bytes(size)
    before = accumulate(memoryview(packed.translate(_ADDED)).cast("b"), initial=0)
    return max(map(add, before, packed.translate(_HIGHEST))) > most


def _heights(eight: int) -> list[int]:
    return list(accumulate(1 if eight & bit else -1 for bit in (128, 64, 32, 16, 8, 4, 2, 1)))


_AS_BITS = bytes.maketrans(b"[]", b"10")
_ADDED = bytes(_heights(eight)[-1] & 0xFF for eight in range(256))
_HIGHEST = bytes(max(0, *_heights(eight)) for eight in range(256))
