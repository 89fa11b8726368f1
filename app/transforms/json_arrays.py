"""A JSON array of objects to NDJSON, and back: ``json-to-ndjson``, ``ndjson-to-json``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from app.transforms.arguments import without_arguments
from app.transforms.ndjson import Record, RecordTransformer, malformed, malformed_record, parse_record
from app.transforms.pieces import in_pieces, slices
from app.transforms.step import MAX_RECORD_BYTES, Kind, Malformed, Step

_SPACE = re.compile(rb"[ \t\r\n]*+")
_LINE_BREAK = re.compile(rb"[\r\n][ \t\r\n]*+")
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\[\s\S])*+')
_BETWEEN = re.compile(rb'["{}\[\],]')
_NESTED = re.compile(rb'["{}\[\]]')
_DEPTH_AT_ONCE = 4

_parse_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _whole_elements() -> re.Pattern[bytes]:
    """Matches elements that look like objects, with the comma behind each; those nested deeper are left."""
    other, string = rb'[^"{}\[\]]*+', rb'"[^"\\]*+(?:\\[\s\S][^"\\]*+)*+"'
    inner = other + rb"(?:" + string + other + rb")*+"
    for _ in range(_DEPTH_AT_ONCE - 1):
        inner = other + rb"(?:(?:" + string + rb"|[{\[]" + inner + rb"[}\]])" + other + rb")*+"
    return re.compile(rb"(?:[ \t\r\n]*+\{" + inner + rb"\}[ \t\r\n]*+,)++")


_WHOLE_ELEMENTS = _whole_elements()


class JsonToNdjson:
    """Each element of an array of objects in a line: line breaks and the indentation behind them go, the rest stays.

    Bound: an incomplete element, at most `MAX_RECORD_BYTES`.
    *Errors*: Malformed with ``record`` and ``offset``, after the elements before it were given.
    """

    done = False

    def __init__(self) -> None:
        self._where: Literal["before", "inside", "behind"] = "before"
        self._part_offset = 0
        self._element = bytearray()
        self._element_offset = 0
        self._record = 1
        # Where the scan of the element stands:
        self._depth, self._in_string, self._escaped = 0, False, False
        self._singly = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for part in slices(piece):
            lines: list[bytes] = []
            error = None
            try:
                self._read(part, lines)
            except Malformed as malformed:
                error = malformed
            yield from in_pieces(b"".join(lines))
            if error:
                raise error

    def finish(self) -> Iterator[bytes]:
        if self._where != "behind":
            detail = "the text ends before the array does" if self._where == "inside" else "there is no array"
            raise malformed_record(detail, self._record, self._part_offset)
        return iter(())

    def _read(self, part: bytes, lines: list[bytes]) -> None:
        at = 0
        self._singly = False
        while at < len(part):
            inside = self._where == "inside"
            at = self._read_elements(part, at, lines) if inside else self._read_outside(part, at)
        self._part_offset += len(part)

    def _read_outside(self, part: bytes, at: int) -> int:
        at = _end_of_space(part, at)
        if at == len(part):
            return at
        if self._where == "behind":
            raise malformed_record("something stands behind the array", self._record, self._part_offset + at)
        if not part.startswith(b"[", at):
            raise malformed_record("this is not an array of objects", self._record, self._part_offset + at)
        self._where = "inside"
        return at + 1

    def _read_elements(self, part: bytes, at: int, lines: list[bytes]) -> int:
        """Reads on up to the end of the next element, or of many; and says up to where."""
        if not self._element:
            if not self._singly and (many := self._at_once(part, at, lines)):
                return many
            at = _end_of_space(part, at)
            self._element_offset = self._part_offset + at
        end = self._end_of_element(part, at)
        self._element += part[at:end]
        if len(self._element) > MAX_RECORD_BYTES:
            at = self._element_offset + MAX_RECORD_BYTES
            raise malformed_record(f"longer than {MAX_RECORD_BYTES} bytes", self._record, at)
        if end == len(part):
            return end
        closes = part.startswith(b"]", end)
        self._end_element(closes, lines)
        self._where = "behind" if closes else "inside"
        return end + 1

    def _at_once(self, part: bytes, at: int, lines: list[bytes]) -> int:
        """Reads elements that are complete and not nested deeply; and says up to where, 0 where there are none.

        So it is where one of them is malformed: which one is found by reading one by one.
        """
        found = _WHOLE_ELEMENTS.match(part, at)
        if found is None:
            return 0
        try:
            found[0].decode()
            elements = _parse_array(b"[%b]" % found[0][:-1])
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            self._singly = True  # or each of those before it would be looked at again and again
            return 0
        joined = b"\n".join(elements)
        if b"\r" in joined or joined.count(b"\n") >= len(elements):
            joined = b"\n".join([_LINE_BREAK.sub(b"", element) for element in map(bytes, elements)])
        lines.extend((joined, b"\n"))
        self._record += len(elements)
        return found.end()

    def _end_element(self, closes: bool, lines: list[bytes]) -> None:
        text = bytes(self._element).rstrip(b" \t\r\n")
        self._element.clear()
        if not text:
            if closes and self._record == 1:
                return
            raise malformed_record("an element is missing", self._record, self._element_offset)
        try:
            text.decode()
            parse_record(text)
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
            raise malformed(error, self._record, self._element_offset) from None
        lines.append(_LINE_BREAK.sub(b"", text) + b"\n")
        self._record += 1

    def _end_of_element(self, part: bytes, at: int) -> int:
        """Where the comma or bracket behind the element stands; the length of ``part`` if it is not in there."""
        while at < len(part):
            if self._in_string:
                at = self._behind_string(part, at)
                continue
            found = (_NESTED if self._depth else _BETWEEN).search(part, at)
            if found is None:
                return len(part)
            at = found.end()
            match found[0]:
                case b'"':
                    self._in_string = True
                case b"{" | b"[":
                    self._depth += 1
                case _ if self._depth:
                    self._depth -= 1
                case b"}":
                    raise malformed_record("a brace closes nothing", self._record, self._part_offset + at - 1)
                case _:
                    return at - 1
        return at

    def _behind_string(self, part: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            at += 1
        rest = _REST_OF_STRING.match(part, at)
        at = rest.end() if rest else at
        if at < len(part):  # at its quote, or at a backslash that ends the part
            self._in_string = self._escaped = part.startswith(b"\\", at)
            at += 1
        return at


class NdjsonToJson(RecordTransformer):
    """The records as a JSON array, one a line."""

    def __init__(self) -> None:
        super().__init__()
        self._before = b"["

    def finish(self) -> Iterator[bytes]:
        yield from super().finish()
        yield b"]" if self._before != b"[" else b"[]"

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        if texts:
            yield from in_pieces(self._before + b",\n".join(texts))
            self._before = b",\n"


def _end_of_space(part: bytes, at: int) -> int:
    space = _SPACE.match(part, at)
    return space.end() if space else at


STEPS: tuple[Step, ...] = (
    Step(
        name="json-to-ndjson",
        arguments="",
        meaning="each object of a JSON array in a line, as it comes",
        takes=frozenset({Kind.JSON, Kind.TEXT, Kind.BYTES}),
        gives=Kind.NDJSON,
        memory="an object of at most 1 MiB",
        place="process",
        make=without_arguments(JsonToNdjson),
    ),
    Step(
        name="ndjson-to-json",
        arguments="",
        meaning="each record as an element of a JSON array",
        takes=frozenset({Kind.NDJSON, Kind.TEXT, Kind.BYTES}),
        gives=Kind.JSON,
        memory="a record of at most 1 MiB",
        place="process",
        make=without_arguments(NdjsonToJson),
    ),
)
