"""CSV to NDJSON: ``csv-to-ndjson``."""

from __future__ import annotations

from collections.abc import Iterator

from app.transforms.csv_layout import CsvLayout, csv_layout
from app.transforms.csv_options import csv_options
from app.transforms.csv_scanning import CsvRecord, CsvScanner
from app.transforms.pieces import slices
from app.transforms.step import MAX_FIELDS, MAX_RECORD_BYTES, Kind, Malformed, Step

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class CsvToNdjson:
    """Each record as a JSON object in a line, its members named by the first record (RFC 4180, strictly).

    A byte order mark and empty lines are dropped; values are texts, unless ``infer`` is asked for.

    Bound: an incomplete record, at most `MAX_RECORD_BYTES` with its line end; the header, which is one.
    *Errors*: Malformed with ``line`` and ``offset``, after what the records before it give.
    """

    done = False

    def __init__(self, delimiter: str, infer: bool) -> None:
        self._delimiter, self._infer = delimiter, infer
        self._names: tuple[str, ...] | None = None
        self._incomplete = bytearray()
        self._in_quotes = False  # at the end of what is incomplete
        self._offset, self._line = 0, 1  # where that starts

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for part in slices(piece):
            end = self._end_of_records(part)
            if end:
                block = bytes(self._incomplete) + part[:end]
                self._incomplete = bytearray(part[end:])
                yield from self._take(block)
            else:
                self._incomplete += part
            if len(self._incomplete) > MAX_RECORD_BYTES:
                yield from self._take(bytes(self._incomplete))

    def finish(self) -> Iterator[bytes]:
        yield from self._take(bytes(self._incomplete))

    def _end_of_records(self, part: bytes) -> int:
        """Behind the last line break of ``part`` that is not quoted; 0 if there is none."""
        if b'"' not in part:
            return 0 if self._in_quotes else part.rfind(b"\n") + 1
        self._in_quotes ^= bool(part.count(b'"') & 1)
        at, in_quotes_at = len(part), self._in_quotes
        while (line_feed := part.rfind(b"\n", 0, at)) >= 0:
            if not in_quotes_at ^ (part.count(b'"', line_feed, at) & 1):
                return line_feed + 1
            at = part.rfind(b'"', 0, line_feed)  # the quote that opens what it is in
            if at < 0:
                return 0
            in_quotes_at = False
        return 0

    def _take(self, block: bytes) -> Iterator[bytes]:
        if self._names is None:
            block = self._without_header(block)
        if self._names and block:
            layout = csv_layout(self._names, self._delimiter, self._infer)
            # A longer block may hold a record that is too long; one without a last line end needs the closer look.
            short = len(block) <= MAX_RECORD_BYTES and block.endswith(b"\n")
            if short and (lines := layout.lines(block)) is not None:
                yield from lines
            else:
                yield from self._by_rows(block, layout, short)
        self._pass(block)

    def _by_rows(self, block: bytes, layout: CsvLayout, short: bool) -> Iterator[bytes]:
        rows, error = (layout.quickly(block) if short else None), None
        if rows is None:
            rows, error = self._closely(block, layout)
        yield from layout.write(rows)
        if error:
            raise error

    def _without_header(self, block: bytes) -> bytes:
        if self._offset == 0 and block.startswith(_BYTE_ORDER_MARK):
            self._pass(_BYTE_ORDER_MARK)
            block = block[len(_BYTE_ORDER_MARK) :]
        scanner = CsvScanner(block, self._offset, self._line, self._delimiter)
        header = next(scanner.records(), None)
        if header is not None:
            self._names = _names(header, scanner)
        self._pass(block[: scanner.position])
        return block[scanner.position :]

    def _closely(self, block: bytes, layout: CsvLayout) -> tuple[list[object], Malformed | None]:
        """The rows up to the first mistake, and that, if there is one."""
        scanner = CsvScanner(block, self._offset, self._line, self._delimiter)
        records: list[list[str]] = []
        error = None
        try:
            for record in scanner.records():
                self._check_width(record, scanner)
                records.append(record.fields)
        except Malformed as malformed:
            error = malformed
        return layout.rows(records) if records else [], error

    def _check_width(self, record: CsvRecord, scanner: CsvScanner) -> None:
        expected = len(self._names or ())
        if len(record.fields) == expected:
            return
        offset = record.starts[expected] if len(record.fields) > expected else record.end
        raise scanner.malformed(f"{len(record.fields)} fields, where the header has {expected}", offset)

    def _pass(self, block: bytes) -> None:
        self._offset += len(block)
        self._line += block.count(b"\n")


def _names(header: CsvRecord, scanner: CsvScanner) -> tuple[str, ...]:
    if len(header.fields) > MAX_FIELDS:
        raise scanner.malformed(f"the header has more than {MAX_FIELDS} fields", header.starts[MAX_FIELDS])
    seen: set[str] = set()
    for name, start in zip(header.fields, header.starts, strict=True):
        if not name:
            raise scanner.malformed("the header has a field without a name", start)
        if name in seen:
            raise scanner.malformed(f"the header has {name[:100]!r} twice", start)
        seen.add(name)
    return tuple(header.fields)


def _make(arguments: str | None) -> CsvToNdjson:
    options = csv_options(arguments, may_infer=True)
    return CsvToNdjson(options.delimiter, options.infer)


STEPS: tuple[Step, ...] = (
    Step(
        name="csv-to-ndjson",
        arguments="delimiter=CHARACTER,infer",
        meaning="each CSV record (RFC 4180) as a JSON object; infer: numbers, true, false and empty as JSON values",
        takes=frozenset({Kind.CSV, Kind.TEXT, Kind.BYTES}),
        gives=Kind.NDJSON,
        memory="the header and a record, each at most 1 MiB",
        place="process",
        make=_make,
    ),
)
