"""NDJSON to CSV: ``ndjson-to-csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator

import msgspec

from app.transforms.csv_options import csv_options
from app.transforms.ndjson import Lines, Record, RecordTransformer, parse_record
from app.transforms.pieces import in_pieces
from app.transforms.predicates import text_of
from app.transforms.step import MAX_FIELDS, PIECE_BYTES, Kind, Step

_parse_texts: Callable[[bytes], dict[str, str]] = msgspec.json.Decoder(dict[str, str]).decode


class NdjsonToCsv(RecordTransformer):
    """Each record as a line of CSV (RFC 4180: CRLF, quotes where they are needed), under the first record's names.

    Strings as they are, null and missing fields empty, all else as its JSON text. A record with a field that the first
    one lacks is malformed, and so is a first one without fields.

    Bound: as `RecordTransformer`, and the header, which is one record's names.
    """

    def __init__(self, delimiter: str) -> None:
        super().__init__()
        self._delimiter = delimiter
        self._names: dict[str, None] = {}  # in order
        self._header_due = True

    def _take(self, lines: Lines) -> Iterator[bytes]:
        texts = _all_texts(lines.texts, self._names) if self._names else None
        if texts is None:
            yield from super()._take(lines)
        else:
            yield from self._write(texts)

    def _parse(self, text: bytes) -> Record:
        record = parse_record(text)
        if not self._names:
            self._names = dict.fromkeys(record)
            if not record:
                raise msgspec.ValidationError("the first record has no field that could make a column")
            if len(record) > MAX_FIELDS:
                raise msgspec.ValidationError(f"the first record has more than {MAX_FIELDS} fields")
        elif not record.keys() <= self._names.keys():
            unknown = next(name for name in record if name not in self._names)
            raise msgspec.ValidationError(f"the field {unknown[:100]!r} is not in the first record, the header")
        return record

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        yield from self._write([{name: _cell(value) for name, value in record.items()} for record in records])

    def _write(self, records: list[dict[str, str]]) -> Iterator[bytes]:
        if records and self._header_due:
            self._header_due = False
            yield from self._written([list(self._names)])
        names = self._names
        # Many names make a short record large.
        at_once = max(1, PIECE_BYTES // max(1, len(names)))
        for start in range(0, len(records), at_once):
            batch = records[start : start + at_once]
            yield from self._written([record.get(name, "") for name in names] for record in batch)

    def _written(self, rows: Iterable[list[str]]) -> Iterator[bytes]:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self._delimiter, lineterminator="\r\n").writerows(rows)
        return in_pieces(text.getvalue().encode())


def _all_texts(texts: list[bytes], names: dict[str, None]) -> list[dict[str, str]] | None:
    """The records, if each has just these fields, and all are strings: the quick way for what was CSV before."""
    try:
        records = list(map(_parse_texts, texts))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return records if all(record.keys() == names.keys() for record in records) else None


def _cell(value: msgspec.Raw) -> str:
    text = str(value, "utf-8")
    if text.startswith('"'):
        return text[1:-1] if "\\" not in text else text_of(value)
    return "" if text == "null" else text


def _make(arguments: str | None) -> NdjsonToCsv:
    return NdjsonToCsv(csv_options(arguments, may_infer=False).delimiter)


STEPS: tuple[Step, ...] = (
    Step(
        name="ndjson-to-csv",
        arguments="delimiter=CHARACTER",
        meaning="each JSON object as a CSV record (RFC 4180), under the names of the first one's fields",
        takes=frozenset({Kind.NDJSON, Kind.TEXT, Kind.BYTES}),
        gives=Kind.CSV,
        memory="the header and a record, each at most 1 MiB",
        place="process",
        make=_make,
    ),
)
