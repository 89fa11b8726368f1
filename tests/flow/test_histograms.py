"""Values counted by size, one by one or many at once."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from app.flow.histograms import SECONDS, Histogram

_VALUES = st.lists(st.one_of(st.sampled_from(SECONDS), st.floats(0, 1000)))


def test_a_value_counts_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 8.0)


@given(_VALUES, _VALUES)
def test_many_at_once_count_as_one_by_one(before: list[float], values: list[float]) -> None:
    single, together = Histogram(), Histogram()
    for value in (*before, *values):
        single.observe(value)
    together.observe_all(before)
    together.observe_all(iter(values))
    assert together.counts == single.counts
    assert math.isclose(together.total, single.total, abs_tol=1e-9)
