"""The built-in tasks, called as functions."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.compute import Cancelled, StoredReport
from app.compute.columns import MOST_CHARACTERS
from app.compute.describing import describe
from app.compute.hashing import sha256
from app.compute.registry import load_tasks
from app.compute.summing import sum_sqrt
from app.compute.tasks import set_hooks
from app.errors import InvalidArguments

MODERATE = st.floats(-1e100, 1e100, allow_nan=False).filter(lambda number: number == 0 or abs(number) > 1e-100)
ANY = st.floats(allow_nan=False, allow_infinity=False)
type Store = Callable[[bytes | str], StoredReport]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    numbers = itertools.count()

    def store(content: bytes | str) -> StoredReport:
        path = tmp_path / str(next(numbers))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return StoredReport("ada", "text/csv", path.stat().st_size, str(path))

    return store


class Recorder:
    """Hooks. cancel_at: the check at which the task is told to end."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, float | None]] = []
        self.checks = 0
        self.cancel_at = sys.maxsize

    def check(self) -> None:
        self.checks += 1
        if self.checks >= self.cancel_at:
            raise Cancelled

    def report(self, done: float, total: float | None, message: str) -> None:
        assert not message
        self.reports.append((done, total))


@pytest.fixture
def hooks() -> Iterator[Recorder]:
    recorder = Recorder()
    set_hooks(recorder)
    yield recorder
    set_hooks(None)


def refused(field: str, **arguments: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        describe(**arguments)
    (error,) = caught.value.members["errors"]  # type: ignore[misc]
    assert error["field"] == field
    return error["detail"]


# -- sum-sqrt ----------------------------------------------------------------------------------------------------------


def test_the_sum_of_the_original() -> None:
    assert math.isclose(sum_sqrt(), 21081849486.44, rel_tol=1e-9)
    assert math.isclose(sum_sqrt(), math.fsum(map(math.sqrt, range(10**7))), rel_tol=1e-15)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 32_767, 32_768, 32_769, 65_536, 100_000])
def test_a_sum_of_any_length(n: int) -> None:
    result = sum_sqrt(n)
    assert type(result) is float
    assert math.isclose(result, math.fsum(map(math.sqrt, range(n))), rel_tol=1e-14)


def test_a_sum_tells_how_far_it_is_and_ends_when_told(hooks: Recorder) -> None:
    sum_sqrt(5_000_000)
    assert hooks.reports
    assert hooks.reports == sorted(hooks.reports)
    assert all(0 < done <= 5_000_000 == total for done, total in hooks.reports)
    hooks.cancel_at = hooks.checks + 2
    with pytest.raises(Cancelled):
        sum_sqrt(10**10)


# -- sha256 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 3 * 2**20 + 5])
def test_the_hash_of_a_report(store: Store, hooks: Recorder, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert sha256(store(content)) == {"sha256": hashlib.sha256(content).hexdigest(), "size": size}
    assert [done for done, total in hooks.reports if total == size][-1:] == [size][: size > 0]


def test_a_hash_ends_when_told(store: Store, hooks: Recorder) -> None:
    hooks.cancel_at = 2
    with pytest.raises(Cancelled):
        sha256(store(bytes(5 * 2**20)))
    assert hooks.reports == [(2**20, 5 * 2**20)]


# -- describe: numbers -------------------------------------------------------------------------------------------------


def test_numbers_described() -> None:
    assert describe([4, 1, 3, 2], percentiles=(0, 50, 62.5, 100), bins=3) == {
        "count": 4,
        "missing": 0,
        "invalid": 0,
        "mean": 2.5,
        "deviation": pytest.approx(1.2909944487358056),
        "min": 1.0,
        "max": 4.0,
        "percentiles": {"0": 1.0, "50": 2.5, "62.5": 2.875, "100": 4.0},
        "histogram": {"edges": [1.0, 2.0, 3.0, 4.0], "counts": [1, 1, 2]},
    }


def test_no_numbers_described() -> None:
    described = describe([], percentiles=(50,))
    assert described["count"] == 0
    assert all(described[name] is None for name in ("mean", "deviation", "min", "max"))
    assert described["percentiles"] == {"50": None}
    assert described["histogram"] == {"edges": [], "counts": []}


def test_one_number_has_no_deviation() -> None:
    described = describe([3], bins=2)
    assert (described["mean"], described["deviation"], described["min"], described["max"]) == (3.0, None, 3.0, 3.0)
    assert set(described["percentiles"].values()) == {3.0}
    assert described["histogram"] == {"edges": [3.0, 3.0, 3.0], "counts": [0, 1]}


@settings(max_examples=200, deadline=None)
@given(st.lists(MODERATE, min_size=2, max_size=60), st.lists(st.floats(0, 100), max_size=5), st.integers(1, 20))
def test_numbers_are_described_as_others_describe_them(
    numbers: list[float], percentiles: list[float], bins: int
) -> None:
    described = describe(numbers, percentiles=tuple(percentiles), bins=bins)
    reach = max(map(abs, numbers))
    near = partial(pytest.approx, rel=1e-12, abs=reach * 1e-12)
    assert described["mean"] == near(statistics.fmean(numbers))
    assert described["deviation"] == near(statistics.stdev(numbers))
    assert (described["min"], described["max"]) == (min(numbers), max(numbers))
    for percent, value in zip(percentiles, np.percentile(numbers, percentiles), strict=True):
        assert described["percentiles"][f"{percent:.15g}"] == near(float(value))
    edges, counts = described["histogram"]["edges"], described["histogram"]["counts"]
    assert counts == _counted(numbers, edges)


def _counted(numbers: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many numbers are in each bin: the last one that begins at or below it."""
    counts = [0] * (len(edges) - 1)
    for number in numbers:
        counts[max(at for at, edge in enumerate(edges[:-1]) if edge <= number)] += 1
    return counts


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY, max_size=30), st.integers(1, 30))
@example([1.7e308, -1.7e308], 3)
@example([sys.float_info.max] * 3, 3)
@example([5e-324, 0.0], 10)
@example([5e-324, 1.7e308], 10)
@example([1.0, math.nextafter(1, 2)], 10)
@example([-0.0, 0.0], 2)
def test_whatever_numbers_there_are_the_description_is_json(numbers: list[float], bins: int) -> None:
    described = describe(numbers, bins=bins)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    if not numbers:
        return
    least, most = min(numbers), max(numbers)
    assert (described["min"], described["max"]) == (least, most)
    assert least <= described["mean"] <= most
    told = list(described["percentiles"].values())
    assert told == sorted(told)
    assert all(least <= value <= most for value in told)
    edges, counts = described["histogram"]["edges"], described["histogram"]["counts"]
    assert (edges[0], edges[-1]) == (least, most)
    assert edges == sorted(edges)
    assert (len(edges), len(counts), sum(counts)) == (bins + 1, bins, len(numbers))


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_the_size_of_numbers_does_not_matter(unit: float) -> None:
    described = describe([1 * unit, 2 * unit, 6 * unit])
    assert described["mean"] == pytest.approx(3 * unit, rel=1e-14, abs=0)
    assert described["deviation"] == pytest.approx(math.sqrt(7) * unit, rel=1e-14, abs=0)


def test_a_deviation_that_no_double_holds_is_null() -> None:
    largest = sys.float_info.max
    assert describe([largest, -largest])["deviation"] is None


def test_a_small_mean_of_large_numbers_is_exact() -> None:
    assert describe([1e15 + 0.5, -1e15, 3.0] * 50_000)["mean"] == 3.5 / 3


def test_a_description_ends_when_told(hooks: Recorder) -> None:
    describe([1.0] * 200_000)
    for at in range(1, hooks.checks + 1):
        hooks.checks, hooks.cancel_at = 0, at
        with pytest.raises(Cancelled):
            describe([1.0] * 200_000)


# -- describe: a column of a report ------------------------------------------------------------------------------------

TABLE = 'name,price,"two\nlines"\na,1.5,1\nb,,2\n"c,d"," 2.5 ",x\n\ne\nf,1e3,nan\ng,1_000,-1e999\nh,n/a,4\n'


def test_a_column_by_name(store: Store) -> None:
    described = describe(report=store(TABLE), column="price")
    assert (described["count"], described["missing"], described["invalid"]) == (3, 2, 2)
    assert (described["min"], described["max"]) == (1.5, 1000.0)
    assert described["mean"] == pytest.approx(1004 / 3)


@pytest.mark.parametrize("column", [3, "two\nlines"])
def test_a_column_with_cells_that_are_no_finite_numbers(store: Store, column: str | int) -> None:
    described = describe(report=store(TABLE), column=column)
    assert (described["count"], described["missing"], described["invalid"]) == (3, 1, 3)
    assert described["mean"] == pytest.approx(7 / 3)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_may_end_in_each_way_and_a_byte_order_mark_come_first(store: Store, end: str, mark: str) -> None:
    report = store(mark + end.join(["x;y", "1;2", "3;4"]))
    assert describe(report=report, column="x", delimiter=";")["mean"] == 2.0


def test_without_a_header_columns_have_numbers(store: Store) -> None:
    report = store("1\t2\n3\t4\n")
    assert describe(report=report, column=2, delimiter="\t", header=False)["mean"] == 3.0
    assert describe(report=report, column=9, delimiter="\t", header=False)["missing"] == 2
    assert refused("column", report=report, column="2", header=False).startswith("has to be a number")


def test_text_that_is_no_utf8_is_no_number(store: Store) -> None:
    described = describe(report=store(b"x\n1\n\xff\n\0\n2\n"), column="x")
    assert (described["count"], described["invalid"]) == (2, 2)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("prize", "there is none of that name; there are: 'name', 'price', 'two\\nlines'"),
        ("", "there is none of that name"),
        (0, "0 is not there: they are numbered from 1 to 3"),
        (-1, "-1 is not there"),
        (4, "4 is not there"),
    ],
)
def test_a_column_that_is_not_there(store: Store, column: str | int, told: str) -> None:
    assert refused("column", report=store(TABLE), column=column).startswith(told)


def test_a_name_of_two_columns(store: Store) -> None:
    assert refused("column", report=store("a,b,a\n1,2,3\n"), column="a") == (
        "there are 2 of that name; give its number, from 1"
    )


def test_a_report_without_anything_in_it(store: Store) -> None:
    assert refused("column", report=store(""), column="a") == "there is none of that name; there are: none"
    assert describe(report=store("a\n"), column="a")["count"] == 0


def test_a_wide_report_tells_some_of_its_columns(store: Store) -> None:
    told = refused("column", report=store(",".join(f"{at}" * 300 for at in range(1000))), column="a")
    assert told.endswith(", …")
    assert len(told) < 3000


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('a\n"1"x\n', "is no CSV at line 2: "),
        ('a\n"1', "is no CSV at line 2: "),
        ("a\n" + "1" * 200_000, "is no CSV at line 2: field larger than field limit"),
        ("a\n" + ",1" * MOST_CHARACTERS, "is no CSV at line 1: it is longer than"),
    ],
)
def test_what_is_no_csv(store: Store, content: str, told: str) -> None:
    assert refused("report", report=store(content), column="a").startswith(told)


def test_arguments_that_do_not_go_together(store: Store) -> None:
    report = store(TABLE)
    assert refused("numbers") == refused("numbers", numbers=[1.0], report=report, column="price")
    assert refused("column", report=report) == "is needed for a report"
    assert refused("column", numbers=[1.0], column="price") == "is for a report"
    for delimiter in ('"', "\n", "\r"):
        assert refused("delimiter", report=report, column="price", delimiter=delimiter).startswith("is not allowed")


def test_what_a_client_may_say_of_it() -> None:
    task = load_tasks(())["describe"]
    given = {"numbers": [1, 2], "percentiles": [0, 99.9], "bins": 5}
    assert task.decode(json.dumps(given).encode()) == {"numbers": [1.0, 2.0], "percentiles": (0.0, 99.9), "bins": 5}
    assert task.report_ids(b'{"report": "ada", "column": 1}') == {"report": "ada"}
    for wrong in ({"percentiles": [101]}, {"bins": 0}, {"bins": 10_001}, {"delimiter": ";;"}, {"column": 1.5}):
        with pytest.raises(InvalidArguments, match=next(iter(wrong))):
            task.decode(json.dumps(wrong).encode())


def test_a_column_tells_how_far_it_is_and_ends_when_told(store: Store, hooks: Recorder) -> None:
    report = store("x\n" + "1.25\n" * 100_000)
    assert describe(report=report, column="x")["count"] == 100_000
    told = hooks.reports
    assert told == sorted(told)
    assert told[-1] == (report.size, report.size)
    assert len(told) >= 4
    for at in (1, 4):
        hooks.checks, hooks.cancel_at = 0, at
        with pytest.raises(Cancelled):
            describe(report=report, column="x")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(ANY.map(repr), st.text(max_size=5), st.integers().map(str)), max_size=20),
    st.sampled_from(",;\t|"),
)
def test_cells_of_any_kind_are_counted(store: Store, cells: list[str], delimiter: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([["before", "x"], *(["", cell] for cell in cells)])
    described = describe(report=store(text.getvalue().encode("utf-8", "replace")), column="x", delimiter=delimiter)
    assert described["count"] + described["missing"] + described["invalid"] == len(cells)
    assert described["missing"] == len([cell for cell in cells if not cell.strip()])
    assert described["count"] == len([cell for cell in cells if _is_number(cell)])


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False
