"""Numbers of one column of a stored CSV report, read as it comes."""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.compute.arguments import invalid_argument
from app.compute.tasks import StoredReport, progress

MOST_CHARACTERS = 1024 * 1024
"""Of a line: more is no CSV that anybody meant."""

_ROWS_BETWEEN_REPORTS = 2048
_MOST_NAMES_TOLD = 20
_NO_NAMES: list[str] = []


@dataclass(frozen=True)
class Column:
    """values: the finite numbers. missing: empty cells, and rows that end before. invalid: other cells."""

    values: array[float] = field(default_factory=lambda: array("d"))
    missing: int = 0
    invalid: int = 0


def read_column(report: StoredReport, column: str | int, *, delimiter: str, header: bool) -> Column:
    """The column of that name in the first row, or of that number, from 1 on.

    Memory: 8 bytes for each number, and a line. Text that is no UTF-8 is no number, and no error.
    *Errors*: InvalidArguments for a column that is not there, and what is no CSV; Cancelled.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise invalid_argument("delimiter", "is not allowed: one character, but no quote and no line break")
    with report.open() as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        rows = csv.reader(_lines(text), delimiter=delimiter, strict=True)
        try:
            at = _position(next(rows, _NO_NAMES) if header else None, column)
            return _numbers(rows, at, file, report.size)
        except csv.Error as error:
            raise invalid_argument("report", f"is no CSV at line {rows.line_num}: {error}") from None


def _numbers(rows: Iterator[list[str]], at: int, file: io.BufferedReader, size: int) -> Column:
    values = array("d")
    missing = invalid = 0
    for count, row in enumerate(rows):
        if count % _ROWS_BETWEEN_REPORTS == 0:
            progress(file.tell(), size)
        cell = row[at] if at < len(row) else ""
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and "_" not in cell:  # Python's float() takes 1_000
            values.append(value)
        elif cell and not cell.isspace():
            invalid += 1
        elif row:  # an empty line is no row
            missing += 1
    progress(file.tell(), size)
    return Column(values, missing, invalid)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MOST_CHARACTERS):
        if len(line) == MOST_CHARACTERS and not line.endswith(("\n", "\r")):
            raise csv.Error(f"it is longer than {MOST_CHARACTERS} characters")
        yield line


def _position(header: list[str] | None, column: str | int) -> int:
    if isinstance(column, int):
        if column >= 1 and (header is None or column <= len(header)):
            return column - 1
        most = "" if header is None else f" to {len(header)}"
        raise invalid_argument("column", f"{column} is not there: they are numbered from 1{most}")
    if header is None:
        raise invalid_argument("column", "has to be a number where there is no header")
    names = [name.strip() for name in header]
    if names.count(column.strip()) == 1:
        return names.index(column.strip())
    if column.strip() in names:
        raise invalid_argument(
            "column", f"there are {names.count(column.strip())} of that name; give its number, from 1"
        )
    told = ", ".join(repr(name[:100]) for name in names[:_MOST_NAMES_TOLD])
    more = ", …" if len(names) > _MOST_NAMES_TOLD else ""
    raise invalid_argument("column", f"there is none of that name; there are: {told or 'none'}{more}")
