"""The rows of one CSV header as JSON objects: a block at a time, by what runs at C's speed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import starmap

import msgspec

from app.transforms.csv_substitution import CsvSubstitution
from app.transforms.pieces import in_pieces
from app.transforms.step import PIECE_BYTES

_CSV_READER_FIELD = 128 * 1024  # csv.field_size_limit(), which is global, and so left as it is
_MOST_STRUCT_FIELDS = 1000  # past that a class takes longer to make than it saves
# Plain integers that each reader of JSON holds exactly, and decimals, whose text is kept.
_NUMBER = r"(?!-0\n)-?(?:0|[1-9][0-9]{0,14}+)(?:\.[0-9]++)?+\n"
_ONE_NUMBER, _NUMBERS = re.compile(_NUMBER), re.compile(rf"\n(?:{_NUMBER})++")
_ANY_VALUE = re.compile(rf"\n(?:{_NUMBER}|true\n|false\n|(?=\n))")
_WORDS: dict[str, object] = {"": None, "true": True, "false": False}

_encoder = msgspec.json.Encoder()


class CsvLayout:
    """What a header and the options of a run settle: how blocks are split, and how rows are written.

    names: of the fields, each once. infer: texts that are JSON values become these, see `inferred`.
    """

    def __init__(self, names: tuple[str, ...], delimiter: str, infer: bool) -> None:
        self._width, self._delimiter, self._infer = len(names), delimiter, infer
        self._make_row = _row_maker(names)
        # A header of long names makes a short record large.
        self._rows_at_once = max(1, PIECE_BYTES // (len(_encoder.encode(names)) + 2 * len(names)))
        self._not_structure = bytes(byte for byte in range(256) if byte not in f"{delimiter}\n".encode())
        self._row_structure = delimiter.encode() * (self._width - 1) + b"\n"
        self._strict = _strict_csv(re.escape(delimiter))
        self._substitution = None if infer else CsvSubstitution(names, delimiter)

    def lines(self, block: bytes) -> Iterator[bytes] | None:
        """A block of complete records as NDJSON, in pieces, or None where its rows have to be told apart."""
        lines = self._substitution and self._substitution.lines(block)
        return in_pieces(lines) if lines else None

    def quickly(self, block: bytes) -> list[object] | None:
        """The rows of a block of complete records, or None where only a closer look can tell what is in it."""
        if b"\0" in block:
            return None
        try:
            return self._quoted(block.decode()) if b'"' in block else self._plain(block)
        except UnicodeDecodeError:
            return None

    def rows(self, records: list[list[str]]) -> list[object]:
        """The rows of records of the header's width, as `write` takes them."""
        if self._infer:
            return list(map(self._make_row, *(inferred(list(column)) for column in zip(*records, strict=True))))
        return list(starmap(self._make_row, records))

    def write(self, rows: list[object]) -> Iterator[bytes]:
        """Rows as NDJSON, in pieces."""
        for start in range(0, len(rows), self._rows_at_once):
            yield from in_pieces(_encoder.encode_lines(rows[start : start + self._rows_at_once]))

    def _plain(self, block: bytes) -> list[object] | None:
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        if not self._is_regular(block):
            block = re.sub(rb"\n{2,}", b"\n", block).removeprefix(b"\n")  # empty lines
            if not self._is_regular(block):
                return None
        fields = block.decode().replace("\n", self._delimiter).split(self._delimiter)
        del fields[-1]  # behind the last line's end
        if self._infer:
            return list(map(self._make_row, *(inferred(fields[at :: self._width]) for at in range(self._width))))
        return list(map(self._make_row, *[iter(fields)] * self._width))

    def _is_regular(self, block: bytes) -> bool:
        """Whether each line has as many fields as the header, and none is empty."""
        structure = block.translate(None, self._not_structure)
        regular = structure == self._row_structure * structure.count(b"\n") and b"\r" not in block
        return regular and (self._width > 1 or not (b"\n\n" in block or block.startswith(b"\n")))

    def _quoted(self, text: str) -> list[object] | None:
        if len(text) > _CSV_READER_FIELD or self._strict.fullmatch(text) is None:
            return None
        reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=self._delimiter, strict=True)
        records = [record for record in reader if record]
        return self.rows(records) if set(map(len, records)) <= {self._width} else None


@lru_cache(maxsize=4)
def csv_layout(names: tuple[str, ...], delimiter: str, infer: bool) -> CsvLayout:
    """The layout, made once per process: a transformer is unpickled for each piece."""
    return CsvLayout(names, delimiter, infer)


def inferred(column: list[str]) -> list[object]:
    """The texts of a column, and in place of those that are JSON values without loss these values.

    These are ``true``, ``false``, the empty text (null), and numbers: integers of up to 15 digits, and decimals with
    as many before the point. Their text is kept (1.10 stays 1.10). All else stays text: leading zeros, ``+1``, ``-0``,
    exponents, and longer integers, which are keys more often than amounts, and which many readers would round.
    """
    lines = "\n".join(["", *column, ""])
    if _ANY_VALUE.search(lines) is None:
        return list(column)
    if _NUMBERS.fullmatch(lines) and lines.count("\n") == len(column) + 1:  # else a quoted field has a line break
        return list(map(msgspec.Raw, column))
    return list(map(_inferred, column))


def _inferred(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    return msgspec.Raw(text) if _ONE_NUMBER.fullmatch(f"{text}\n") else text


def _row_maker(names: tuple[str, ...]) -> Callable[..., object]:
    try:
        if len(names) <= _MOST_STRUCT_FIELDS:
            fields = {f"f{at}": name for at, name in enumerate(names)}
            return msgspec.defstruct("Row", [(field, object) for field in fields], rename=fields, gc=False)
    except ValueError:
        pass  # a name that has to be escaped in JSON
    return lambda *values: dict(zip(names, values, strict=True))


def _strict_csv(delimiter: str) -> re.Pattern[str]:
    """Matches what `csv.reader` reads as RFC 4180 means it; `csv.reader` lets quotes pass inside unquoted fields."""
    unquoted = r'[^"\r]*+(?:\r\n[^"\r]*+)*+'
    quoted = rf'(?<![^{delimiter}\n])"[^"]*+(?:""[^"]*+)*+"(?=[{delimiter}\r\n])'
    return re.compile(rf"(?:{unquoted}{quoted})*+{unquoted}")
