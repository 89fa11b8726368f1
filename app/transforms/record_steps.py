"""The steps on NDJSON records: ``select``, ``drop``, ``rename``, ``where``, ``head``, ``skip``, ``distinct``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b

import msgspec

from app.transforms.arguments import field_name, field_names, renamed_fields, whole_number
from app.transforms.ndjson import Lines, Record, RecordTransformer, parse_record, write_records
from app.transforms.pieces import in_pieces
from app.transforms.predicates import Predicate, parse_predicate
from app.transforms.step import PIECE_BYTES, BadArguments, Kind, Step, Transformer

_MOST_RECORDS = 10**18 - 1
_DIGEST_BYTES = 16
_USUAL_WINDOW, _LARGEST_WINDOW = 1_000, 10_000


class Select(RecordTransformer):
    """Of each record these fields, in this order; those it lacks are left out."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        names = self._names
        return in_pieces(
            write_records([{name: record[name] for name in names if name in record} for record in records])
        )


class Drop(RecordTransformer):
    """Of each record all but these fields."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = frozenset(names)

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        for record in records:
            for name in self._names & record.keys():
                del record[name]
        return in_pieces(write_records(records))


class Rename(RecordTransformer):
    """Fields under new names, in their places. A record that would have two fields of one name is malformed."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self._names = names
        # Long new names make a short record large.
        self._at_once = max(1, PIECE_BYTES // sum(len(msgspec.json.encode(name)) for name in names.values()))

    def _parse(self, text: bytes) -> Record:
        record = parse_record(text)
        renamed = {self._names.get(name, name): value for name, value in record.items()}
        if len(renamed) == len(record):
            return renamed
        twice = Counter(self._names.get(name, name) for name in record).most_common(1)[0][0]
        raise msgspec.ValidationError(f"two fields would be called {twice[:100]!r}")

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        for start in range(0, len(records), self._at_once):
            yield from in_pieces(write_records(records[start : start + self._at_once]))


class Where(RecordTransformer):
    """The records that pass the test of ``predicate``, as they stand."""

    def __init__(self, predicate: Predicate) -> None:
        super().__init__()
        self._predicate = predicate

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        field, passes = self._predicate.field, self._predicate.test()
        return _unchanged(
            [
                text
                for text, record in zip(texts, records, strict=True)
                if (value := record.get(field)) is not None and passes(value)
            ]
        )


class Head(RecordTransformer):
    """The first ``count`` records, as they stand; what comes behind them is not read."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count
        self.done = count == 0

    def _take(self, lines: Lines) -> Iterator[bytes]:
        return super()._take(lines.up_to(self._left))

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        self._left -= len(records)
        self.done = self._left == 0
        return _unchanged(texts)


class Skip(RecordTransformer):
    """All records behind the first ``count``, as they stand."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        skipped = min(self._left, len(texts))
        self._left -= skipped
        return _unchanged(texts[skipped:])


class Distinct(RecordTransformer):
    """The records whose ``field`` has a value that is none of the last ``window`` different ones, as they stand.

    Values are the same if their JSON text is, but for how a string is escaped. One that is seen again counts as the
    latest. A record that lacks the field passes.

    Bound: ``window`` values, of each a digest of 16 bytes, or itself if it is shorter.
    """

    def __init__(self, field: str, window: int) -> None:
        super().__init__()
        self._field, self._window = field, window
        self._seen: dict[bytes, None] = {}  # the latest last

    def _give(self, texts: list[bytes], records: list[Record]) -> Iterator[bytes]:
        field = self._field
        return _unchanged(
            [
                text
                for text, record in zip(texts, records, strict=True)
                if (value := record.get(field)) is None or self._is_new(bytes(value))
            ]
        )

    def _is_new(self, value: bytes) -> bool:
        if b"\\" in value and value.startswith(b'"'):
            value = msgspec.json.encode(msgspec.json.decode(value, type=str))
        if len(value) >= _DIGEST_BYTES:
            value = blake2b(value, digest_size=_DIGEST_BYTES).digest()
        new = value not in self._seen
        if not new:
            del self._seen[value]
        elif len(self._seen) == self._window:
            del self._seen[next(iter(self._seen))]
        self._seen[value] = None
        return new


def _unchanged(texts: list[bytes]) -> Iterator[bytes]:
    return in_pieces(b"\n".join([*texts, b""]))


def _distinct(arguments: str | None) -> Distinct:
    field, rest = field_name(arguments or "", ":")
    if rest and not rest.startswith(":"):
        raise BadArguments(f"{rest!r} stands where a colon and the window belong: FIELD or FIELD:WINDOW")
    window = whole_number(rest[1:], 1, _LARGEST_WINDOW) if rest else _USUAL_WINDOW
    return Distinct(field, window)


def _step(name: str, arguments: str, meaning: str, make: Callable[[str | None], Transformer], memory: str = "") -> Step:
    return Step(
        name=name,
        arguments=arguments,
        meaning=meaning,
        takes=frozenset({Kind.NDJSON}),
        gives=Kind.NDJSON,
        memory=f"a record of at most 1 MiB{memory}",
        place="process",
        make=make,
    )


STEPS: tuple[Step, ...] = (
    _step("select", "FIELD,…", "of each record these fields, in this order", lambda text: Select(field_names(text))),
    _step("drop", "FIELD,…", "of each record all but these fields", lambda text: Drop(field_names(text))),
    _step("rename", "OLD=NEW,…", "fields under new names, in place", lambda text: Rename(renamed_fields(text))),
    _step(
        "where",
        "FIELD OP VALUE",
        "the records whose field compares so (== != < <= > >=), or matches a regular expression (~)",
        lambda text: Where(parse_predicate(text)),
    ),
    _step("head", "N", "the first N records", lambda text: Head(whole_number(text, 0, _MOST_RECORDS))),
    _step("skip", "N", "all but the first N records", lambda text: Skip(whole_number(text, 0, _MOST_RECORDS))),
    _step(
        "distinct",
        "FIELD:WINDOW",
        "the records whose field's value is not among the last WINDOW different ones (1000 unless given)",
        _distinct,
        ", and 16 bytes (about 150 in Python) for each of WINDOW values, at most 10,000",
    ),
)
