"""CSV read field by field, strictly (RFC 4180), so that each mistake is found where it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from app.transforms.step import MAX_RECORD_BYTES, Malformed

_QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"')
_BLANK_LINES = re.compile(rb"(?:\r?\n)++")


@dataclass(frozen=True)
class CsvRecord:
    """The fields of a record, and the offset at which each starts. ``end``: where its line end starts."""

    fields: list[str]
    starts: list[int]
    end: int


class CsvScanner:
    """Reads the records of ``data``, which starts with a record, is ``offset`` bytes into the stream, on line ``line``.

    A record ends with CRLF, LF or the end of ``data``; empty lines are none. What RFC 4180 does not know is an error:
    a quote inside an unquoted field, text behind a closing quote, a carriage return on its own outside quotes.

    *Errors*: Malformed, after the records before it were read.
    """

    def __init__(self, data: bytes, offset: int, line: int, delimiter: str) -> None:
        self._data, self._offset, self._line = data, offset, line
        self._unquoted, self._ending = _patterns(delimiter)
        self._delimiter = delimiter.encode()
        self._record_start = 0
        self.position = 0
        """Bytes of ``data`` that are read."""

    def records(self) -> Iterator[CsvRecord]:
        while True:
            if blank := _BLANK_LINES.match(self._data, self.position):
                self.position = blank.end()
            if self.position == len(self._data):
                return
            yield self._record()

    def malformed(self, detail: str, offset: int) -> Malformed:
        """The error at ``offset`` of the stream, or that of the record's limit, where that was reached before."""
        at = offset - self._offset
        limit = self._record_start + MAX_RECORD_BYTES
        if at >= limit:
            at, detail = limit, f"a record is longer than {MAX_RECORD_BYTES} bytes"
        line = self._line + self._data.count(b"\n", 0, at)
        offset = self._offset + at
        return Malformed(f"Line {line}, byte {offset}: {detail}", members={"line": line, "offset": offset})

    def _record(self) -> CsvRecord:
        self._record_start = self.position
        fields: list[str] = []
        starts: list[int] = []
        ending: bytes | None = self._delimiter
        end = self.position
        while ending == self._delimiter:
            starts.append(self._offset + self.position)
            fields.append(self._field())
            end = self.position
            ending = self._end_of_field()
        if self.position - self._record_start > MAX_RECORD_BYTES:
            raise self.malformed("", self._offset + self.position)
        return CsvRecord(fields, starts, self._offset + end)

    def _field(self) -> str:
        start = self.position
        if not self._data.startswith(b'"', start):
            unquoted = self._unquoted.match(self._data, start)
            self.position = unquoted.end() if unquoted else start
            return self._text(self._data[start : self.position], start)
        quoted = _QUOTED.match(self._data, start)
        if quoted is None:
            too_long = len(self._data) - self._record_start > MAX_RECORD_BYTES
            raise self._wrong("a quote that is never closed", len(self._data) if too_long else start)
        self.position = quoted.end()
        return self._text(quoted[1], start + 1).replace('""', '"')

    def _text(self, raw: bytes, start: int) -> str:
        if (nul := raw.find(b"\0")) >= 0:
            raise self._wrong("a NUL", start + nul)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._wrong("invalid UTF-8", start + error.start) from None

    def _end_of_field(self) -> bytes:
        ending = self._ending.match(self._data, self.position)
        if ending is None:
            match self._data[self.position : self.position + 1]:
                case b'"':
                    raise self._wrong("a quote inside a field that is not quoted", self.position)
                case b"\r":
                    raise self._wrong("a carriage return without a line feed", self.position)
                case _:
                    raise self._wrong("text behind a closing quote", self.position)
        self.position = ending.end()
        return ending[0]

    def _wrong(self, detail: str, position: int) -> Malformed:
        return self.malformed(detail, self._offset + position)


@lru_cache(maxsize=8)
def _patterns(delimiter: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    escaped = re.escape(delimiter.encode())
    return re.compile(rb'[^"\r\n' + escaped + rb"]*+"), re.compile(escaped + rb"|\r?\n|\Z")
