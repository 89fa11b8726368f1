"""By what it is guessed how long a task waits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.compute.means import Means

SECONDS = st.floats(0, 1e4)


def test_what_never_ran_may_run_for_ever() -> None:
    means = Means()
    means.has_run(None, 1)
    assert (means.of("a"), means.of(None)) == (math.inf, math.inf)


def test_each_task_has_its_own() -> None:
    means = Means()
    means.has_run("a", 1)
    means.has_run("b", 3)
    assert (means.of("a"), means.of("b")) == (1, 3)
    assert means.ran == pytest.approx(1.4)


@settings(deadline=None)
@given(st.lists(SECONDS, min_size=1))
def test_a_mean_is_between_the_least_and_the_most(times: list[float]) -> None:
    means = Means()
    for seconds in times:
        means.has_run("a", seconds)
        means.has_waited(seconds)
    for mean in (means.of("a"), means.ran):
        assert min(times) * (1 - 1e-9) <= mean <= max(times) * (1 + 1e-9)
    assert 0 <= means.waited <= max(times)


@settings(deadline=None)
@given(SECONDS, SECONDS)
def test_a_mean_comes_near_to_what_is_the_rule_now(before: float, now: float) -> None:
    means = Means()
    for seconds in [before] * 20 + [now] * 60:
        means.has_run("a", seconds)
        means.has_waited(seconds)
    for mean in (means.of("a"), means.ran, means.waited):
        assert mean == pytest.approx(now, abs=1e-4 * max(before, now) + 1e-9)


@settings(deadline=None)
@given(st.lists(SECONDS), st.lists(SECONDS), st.integers(0, 1000), st.integers(1, 64))
def test_the_wait_is_a_time_and_no_shorter_for_more(
    waited: list[float], ran: list[float], accepted: int, workers: int
) -> None:
    means = Means()
    for seconds in waited:
        means.has_waited(seconds)
    for seconds in ran:
        means.has_run("a", seconds)
    wait = means.wait(accepted, workers)
    assert 0 <= wait < math.inf
    assert wait <= means.wait(accepted + 1, workers)
    assert wait >= means.waited


def test_the_wait_is_known_before_anything_ran() -> None:
    assert Means().wait(3, 1) == 2
    assert Means().wait(1, 4) == 0.25
