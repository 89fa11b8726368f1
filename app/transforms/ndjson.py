"""NDJSON read a batch of lines at a time: each line one JSON object."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from app.transforms.pieces import slices
from app.transforms.step import MAX_RECORD_BYTES, Malformed

type Record = dict[str, msgspec.Raw]
"""A JSON object: of its members each value's text, byte for byte. Of several members of one name the last counts."""

_WHITESPACE = b" \t\r"
_BYTE = re.compile(r"^(?:JSON is malformed: )?(.*) \(byte ([0-9]+)\)$")
_NOT_AN_OBJECT = re.compile(r"Expected `object`, got `(\w+)`")

parse_record: Callable[[bytes], Record] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""The record that a text is. *Errors*: UnicodeDecodeError, msgspec.DecodeError, RecursionError; but what is not UTF-8
inside values passes, and is for the caller to find."""

write_records: Callable[[list[Record]], bytes] = msgspec.json.Encoder().encode_lines


@dataclass(frozen=True)
class Lines:
    """Complete lines of a stream.

    block: the bytes. texts: of the lines that hold something, without line ends and outer whitespace. offset: of the
    block in the stream. record: the number of the first one, from 1.
    """

    block: bytes
    texts: list[bytes]
    offset: int
    record: int

    def up_to(self, count: int) -> Lines:
        """Without the records behind the first ``count``."""
        return Lines(self.block, self.texts[:count], self.offset, self.record)

    def parsed[T](self, parse: Callable[[bytes], T]) -> tuple[list[T], Malformed | None]:
        """What ``parse`` makes of each text, up to the first malformed one; and the error of that.

        ``parse`` may also raise msgspec.ValidationError, with what is wrong with the record.
        """
        try:
            if not self.block.isascii():
                self.block.decode()
            return list(map(parse, self.texts)), None
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            return self._parsed_one_by_one(parse)

    def _parsed_one_by_one[T](self, parse: Callable[[bytes], T]) -> tuple[list[T], Malformed | None]:
        parsed: list[T] = []
        for index, text in enumerate(self.texts):
            try:
                text.decode()
                parsed.append(parse(text))
            except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
                return parsed, malformed(error, self.record + index, self._offset_of(index))
        return parsed, None

    def _offset_of(self, index: int) -> int:
        at = self.offset
        for line in self.block.split(b"\n"):
            if line.strip(_WHITESPACE):
                if index == 0:
                    return at + len(line) - len(line.lstrip(_WHITESPACE))
                index -= 1
            at += len(line) + 1
        raise IndexError(index)


class LineReader:
    """Cuts a stream into its lines (LF or CRLF; the last one may lack its end).

    Bound: an incomplete line, at most `MAX_RECORD_BYTES` with its line end.
    *Errors*: Malformed where a line is longer, after the lines before it were given.
    """

    def __init__(self) -> None:
        self._incomplete = bytearray()
        self._offset, self._record = 0, 1  # where that starts

    def feed(self, piece: bytes) -> Iterator[Lines]:
        for part in slices(piece):
            end = part.rfind(b"\n") + 1
            if end:
                block = bytes(self._incomplete) + part[:end]
                self._incomplete = bytearray(part[end:])
                # Only the first line began before this part, which is short.
                self._check_length(block.find(b"\n") + 1)
                yield self._lines(block)
            else:
                self._incomplete += part
            self._check_length(len(self._incomplete))

    def finish(self) -> Iterator[Lines]:
        if self._incomplete:
            yield self._lines(bytes(self._incomplete))

    def _lines(self, block: bytes) -> Lines:
        texts = [text for line in block.split(b"\n") if (text := line.strip(_WHITESPACE))]
        lines = Lines(block, texts, self._offset, self._record)
        self._offset += len(block)
        self._record += len(texts)
        return lines

    def _check_length(self, length: int) -> None:
        if length > MAX_RECORD_BYTES:
            raise malformed_record(
                f"longer than {MAX_RECORD_BYTES} bytes", self._record, self._offset + MAX_RECORD_BYTES
            )


class RecordTransformer(ABC):
    """What reads NDJSON has this in common: records are read, a batch at a time, and `_give` makes something of them.

    Each line has to be a JSON object; blank lines are dropped. Values pass byte for byte.

    Bound: an incomplete line, at most `MAX_RECORD_BYTES`.
    *Errors*: Malformed with ``record`` and ``offset``, after what the records before it give.
    """

    def __init__(self) -> None:
        self.done = False
        self._reader = LineReader()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        if not self.done:
            yield from self._take_all(self._reader.feed(piece))

    def finish(self) -> Iterator[bytes]:
        if not self.done:
            yield from self._take_all(self._reader.finish())

    def _take_all(self, batches: Iterator[Lines]) -> Iterator[bytes]:
        for lines in batches:
            yield from self._take(lines)
            if self.done:
                return

    def _take(self, lines: Lines) -> Iterator[bytes]:
        records, error = lines.parsed(self._parse)
        yield from self._give(lines.texts[: len(records)], records)
        if error:
            raise error

    def _parse(self, text: bytes) -> Record:
        return parse_record(text)

    @abstractmethod
    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        """What ``records``, read from ``texts``, give."""


def malformed(error: Exception, record: int, offset: int) -> Malformed:
    """The error of a record that starts at ``offset``, from what its parser says."""
    match error:
        case UnicodeDecodeError():
            return malformed_record("invalid UTF-8", record, offset + error.start)
        case RecursionError():
            return malformed_record("nested too deeply", record, offset)
        case _:
            said = str(error)
    if told := _BYTE.match(said):
        at = int(told[2]) - told[1].startswith("trailing")  # there it is the byte behind
        return malformed_record(told[1], record, offset + at)
    if kind := _NOT_AN_OBJECT.match(said):
        return malformed_record(f"not a JSON object, but of type {kind[1]}", record, offset)
    too_soon = "the text ends too soon, or a surrogate lacks its other half"
    return malformed_record(too_soon if "truncated" in said else said, record, offset)


def malformed_record(detail: str, record: int, offset: int) -> Malformed:
    """The error that ``record`` has at ``offset``."""
    return Malformed(f"Record {record}, byte {offset}: {detail}", members={"record": record, "offset": offset})
