"""Backoff as a decision: when a try may be made, whatever happened before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.storage.backoff import Backoff

LEAST, MOST = 0.1, 2.0
deterministic = settings(derandomize=True, deadline=None, max_examples=100)
jitters = st.floats(0.0, 1.0, exclude_max=True)


def failing(*, jitter: float, failures: int, now: float = 0.0) -> Backoff:
    """One that has failed ``failures`` times in a row, the last time at ``now``."""
    backoff = Backoff(LEAST, MOST, jitter=lambda: jitter)
    for _ in range(failures):
        backoff.begin()
        backoff.failed(now)
    return backoff


def test_what_has_not_failed_may_be_tried_at_once() -> None:
    backoff = Backoff()
    assert backoff.wait(0.0) == 0.0
    backoff.begin()
    assert backoff.wait(0.0) == 0.0  # a pool opens many connections at a time


@deterministic
@given(st.integers(1, 10_000), st.floats(0, 1e9))
def test_the_ceiling_doubles_with_each_failure_up_to_the_most(failures: int, now: float) -> None:
    wait = failing(jitter=1.0, failures=failures, now=now).wait(now)
    assert abs(wait - min(MOST, LEAST * 2 ** min(failures - 1, 64))) < 1e-6 * max(now, 1.0)


@deterministic
@given(st.integers(1, 10_000), jitters)
def test_a_wait_is_a_random_part_of_the_ceiling_but_never_less_than_the_least(failures: int, jitter: float) -> None:
    ceiling = failing(jitter=1.0, failures=failures).wait(0.0)
    assert failing(jitter=jitter, failures=failures).wait(0.0) == max(LEAST, ceiling * jitter)


@deterministic
@given(st.integers(1, 100), jitters, st.floats(0, 10))
def test_a_wait_ends_with_time(failures: int, jitter: float, later: float) -> None:
    backoff = failing(jitter=jitter, failures=failures)
    assert backoff.wait(later) == max(0.0, backoff.wait(0.0) - later)


def test_while_one_tries_again_others_wait() -> None:
    backoff = failing(jitter=0.5, failures=3)
    later = backoff.wait(0.0)
    assert backoff.wait(later) == 0.0
    backoff.begin()
    assert backoff.wait(later) == LEAST
    assert backoff.wait(later + 1000) == LEAST


def test_success_forgets_all_failures() -> None:
    backoff = failing(jitter=1.0, failures=10)
    backoff.begin()
    backoff.succeeded()
    assert backoff.wait(0.0) == 0.0
    backoff.failed(0.0)
    assert backoff.wait(0.0) == LEAST


def test_a_try_that_was_cancelled_lets_the_next_one_try_at_once() -> None:
    backoff = failing(jitter=0.5, failures=2)
    later, failures = backoff.wait(0.0), backoff.failures
    backoff.begin()
    backoff.abandoned()
    assert backoff.wait(later) == 0.0
    assert backoff.failures == failures


def test_two_clients_of_one_server_do_not_come_at_the_same_time() -> None:
    waits: set[float] = set()
    for _ in range(20):
        backoff = Backoff(LEAST, MOST)
        for _ in range(10):
            backoff.failed(0.0)
        waits.add(backoff.wait(0.0))
    assert len(waits) > 1


class Outage(RuleBasedStateMachine):
    """Any history of tries: a wait is always bounded, and at most one tries what has failed."""

    def __init__(self) -> None:
        super().__init__()
        self.jitter = 0.0
        self.now = 0.0
        self.trying = False
        self.backoff = Backoff(LEAST, MOST, jitter=lambda: self.jitter)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.backoff.wait(self.now) == 0 and not self.trying)
    @rule()
    def begin(self) -> None:
        self.backoff.begin()
        self.trying = True

    @precondition(lambda self: self.trying)
    @rule(jitter=jitters)
    def fail(self, jitter: float) -> None:
        self.jitter = jitter
        self.backoff.failed(self.now)
        self.trying = False
        assert self.backoff.wait(self.now) >= LEAST - 1e-9

    @precondition(lambda self: self.trying)
    @rule()
    def succeed(self) -> None:
        self.backoff.succeeded()
        self.trying = False
        assert self.backoff.wait(self.now) == 0

    @precondition(lambda self: self.trying)
    @rule()
    def abandon(self) -> None:
        self.backoff.abandoned()
        self.trying = False
        assert self.backoff.wait(self.now) == 0  # the wait before this try was over

    @invariant()
    def a_wait_is_bounded(self) -> None:
        assert 0 <= self.backoff.wait(self.now) <= MOST + 1e-9

    @invariant()
    def nobody_else_tries_what_has_failed(self) -> None:
        if self.trying and self.backoff.failures:
            assert self.backoff.wait(self.now) > 0

    @invariant()
    def waiting_as_long_as_told_is_long_enough(self) -> None:
        if not self.trying:
            assert self.backoff.wait(self.now + self.backoff.wait(self.now)) < 1e-9


TestOutage = Outage.TestCase
TestOutage.settings = settings(derandomize=True, deadline=None, max_examples=60, stateful_step_count=30)
