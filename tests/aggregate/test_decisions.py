"""What is decided without clock and I/O: backoff, budget, what is kept, percentiles."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.aggregate.kept_values import KeptValues
from app.aggregate.latencies import Latencies
from app.aggregate.retries import RetryBudget, backoff, may_pass

# -- retries -----------------------------------------------------------------------------------------------------------


@given(retry=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_a_wait_is_below_a_ceiling_that_doubles(retry: int, jitter: float) -> None:
    assert 0 <= backoff(retry, jitter) <= min(5.0, 0.1 * 2.0 ** min(retry - 1, 60))


def test_the_whole_of_it_is_jitter() -> None:
    assert [backoff(retry, 1.0) for retry in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff(4, 0.0) == 0


@given(retry=st.integers(1, 20), jitter=st.floats(0, 1), asked=st.floats(0, 1e6))
def test_who_asks_for_time_gets_it(retry: int, jitter: float, asked: float) -> None:
    assert backoff(retry, jitter, asked) >= max(asked, backoff(retry, jitter))


def test_what_may_pass() -> None:
    assert [status for status in range(200, 600) if may_pass(status)] == [408, 425, 429, 500, 502, 503, 504]


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.booleans(), max_size=300))
def test_second_calls_are_a_share_of_the_first(steps: list[bool]) -> None:
    budget, first, second = RetryBudget(0.2, 10), 0, 0
    for is_first in steps:
        if is_first:
            budget.earn()
            first += 1
        else:
            second += budget.spend()
        assert second <= 10 + 0.2 * first + 1e-6


def test_a_budget_that_is_used_up_fills_again() -> None:
    budget = RetryBudget(0.5, 2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(100):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_a_value_is_found_for_its_time() -> None:
    kept = KeptValues()
    kept.keep("k", b"1", 100.0)
    assert (kept.find("k", 109.9, 10), kept.find("k", 110, 10), kept.find("x", 100, 10)) == (b"1", None, None)
    assert kept.find("k", 100.0, 0) is None


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12)), max_size=60))
def test_no_more_is_kept_than_may_be(steps: list[tuple[str, int]]) -> None:
    kept, last = KeptValues(3, 20), dict[str, bytes]()
    for key, size in steps:
        kept.keep(key, bytes(size), 0)
        last[key] = bytes(size)
        there = {name: value for name in "abcdef" if (value := kept.find(name, 0, 1)) is not None}
        assert all(last[name] == value for name, value in there.items())
        assert key in there
        held = sum(len(name) + len(value) for name, value in there.items())
        assert (kept.statistics().count, kept.statistics().bytes) == (len(there), held)
        assert len(there) <= 3
        assert held <= 20


def test_what_is_too_large_leaves_no_earlier_one() -> None:
    kept = KeptValues(10, 10)
    kept.keep("k", b"1", 0)
    kept.keep("k", bytes(10), 0)
    assert (kept.find("k", 0, 1), kept.statistics().bytes) == (None, 0)


# -- percentiles -------------------------------------------------------------------------------------------------------


def test_percentiles_are_of_the_last_calls() -> None:
    latencies = Latencies()
    assert latencies.percentile(0.5) is None
    for value in range(10_000):
        latencies.add(float(value))
    assert latencies.percentile(0.5) == 10_000 - 512 + 255
    assert latencies.percentile(0.99) == 10_000 - 6
