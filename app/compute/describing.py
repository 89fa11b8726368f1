"""``describe``: what a set of numbers looks like."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from app.compute.arguments import invalid_argument
from app.compute.columns import Column, read_column
from app.compute.tasks import StoredReport, checkpoint, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    type Numbers = NDArray[np.float64]

_BLOCK = 65_536
_EXPONENTS = range(-400, 400)  # the squares of such numbers, and sums of these, are in a double's range
_Percentage = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Percentages = Annotated[tuple[_Percentage, ...], msgspec.Meta(max_length=100)]
_Name = Annotated[str | int, msgspec.Meta(description="of the report: a name in its first row, or a number, from 1 on")]


@task(name="describe", retry=True)
def describe(
    numbers: list[float] | None = None,
    report: StoredReport | None = None,
    column: _Name | None = None,
    *,
    percentiles: _Percentages = (5, 25, 50, 75, 95),
    bins: Annotated[int, msgspec.Meta(ge=1, le=10_000, description="of the histogram")] = 10,
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ",",
    header: Annotated[bool, msgspec.Meta(description="whether the first row has names")] = True,
) -> dict[str, Any]:
    """Count, mean, deviation, percentiles and histogram of numbers, or of a column of a stored CSV report.

    Of a report: ``missing`` counts empty cells, ``invalid`` those that are no finite number; both are left out of
    everything else. ``deviation`` is that of a sample (divided by count - 1). ``percentiles`` lie between two numbers
    in proportion. Each bin has its lower edge in it, and the last one the upper one too. What cannot be told, because
    there are too few numbers or a double cannot hold it, is null.
    """
    found = _column(numbers, report, column, delimiter, header)
    counted = {"count": len(found.values), "missing": found.missing, "invalid": found.invalid}
    return counted | _described(found.values, percentiles, bins)


def _column(
    numbers: list[float] | None, report: StoredReport | None, column: str | int | None, delimiter: str, header: bool
) -> Column:
    if (numbers is None) == (report is None):
        raise invalid_argument("numbers", "either numbers or report is needed, and not both")
    if report is None:
        if column is not None:
            raise invalid_argument("column", "is for a report")
        return Column(array("d", numbers or ()))
    if column is None:
        raise invalid_argument("column", "is needed for a report")
    return read_column(report, column, delimiter=delimiter, header=header)


def _described(given: array[float], percentiles: Sequence[float], bins: int) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415 - takes long to load, and not each process needs it

    numbers = np.frombuffer(given, dtype=np.float64)
    if not numbers.size:
        nothing = dict.fromkeys(("mean", "deviation", "min", "max"))
        return {**nothing, **_shape(dict.fromkeys(map(_key, percentiles)), [], [])}
    checkpoint()
    numbers.sort()
    least, most = float(numbers[0]), float(numbers[-1])
    exponent = _scale(least, most)
    if exponent:
        np.ldexp(numbers, -exponent, out=numbers)
    mean = _mean(numbers)
    told = {_key(percent): _percentile(numbers, percent) for percent in percentiles}
    edges, counts = _histogram(numbers, bins)
    return {
        "mean": _back(mean, exponent),
        "deviation": _back(_deviation(numbers, mean), exponent) if numbers.size > 1 else None,
        "min": least,
        "max": most,
        **_shape(
            {key: _back(value, exponent) for key, value in told.items()},
            [least, *(_back(edge, exponent) for edge in edges[1:-1]), most],
            counts,
        ),
    }


def _shape(percentiles: dict[str, Any], edges: list[Any], counts: list[int]) -> dict[str, Any]:
    return {"percentiles": percentiles, "histogram": {"edges": edges, "counts": counts}}


def _key(percent: float) -> str:
    return f"{percent:.15g}"


def _scale(least: float, most: float) -> int:
    """The power of two by which numbers are divided, so that their squares stay in range; 0 mostly."""
    exponent = math.frexp(max(abs(least), abs(most)))[1]
    return 0 if exponent in _EXPONENTS else exponent


def _back(value: float, exponent: int) -> float | None:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return None


def _histogram(numbers: Numbers, bins: int) -> tuple[list[float], list[int]]:
    """The edges, and how many of the sorted numbers are in each bin between them."""
    import numpy as np  # noqa: PLC0415 - loaded by now

    edges: Numbers = np.linspace(float(numbers[0]), float(numbers[-1]), bins + 1)
    bounds: list[int] = [0, *np.searchsorted(numbers, edges[1:-1]).tolist(), numbers.size]
    return edges.tolist(), [upper - lower for lower, upper in pairwise(bounds)]


def _mean(numbers: Numbers) -> float:
    """The second look takes away most of what the first one rounded."""
    rough = math.fsum(float(block.sum()) for block in _blocks(numbers)) / numbers.size
    mean = rough + math.fsum(float((block - rough).sum()) for block in _blocks(numbers)) / numbers.size
    return min(max(mean, float(numbers[0])), float(numbers[-1]))


def _deviation(numbers: Numbers, mean: float) -> float:
    squares = math.fsum(float(((block - mean) ** 2).sum()) for block in _blocks(numbers))
    return math.sqrt(squares / (numbers.size - 1))


def _percentile(numbers: Numbers, percent: float) -> float:
    at = percent / 100 * (numbers.size - 1)
    below = min(int(at), numbers.size - 1)
    lower, upper = float(numbers[below]), float(numbers[min(below + 1, numbers.size - 1)])
    return min(max(lower + (upper - lower) * (at - below), lower), upper)


def _blocks(numbers: Numbers) -> Iterator[Numbers]:
    for start in range(0, numbers.size, _BLOCK):
        checkpoint()
        yield numbers[start : start + _BLOCK]
