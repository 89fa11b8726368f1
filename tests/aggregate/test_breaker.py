"""The breaker as a machine: whatever is called in whatever order, what it promises holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.aggregate.breaker import Admission, Breaker
from app.config.aggregate import BreakerSettings

_SETTINGS = BreakerSettings(failures=3, window=10, reset=5)


def failing(breaker: Breaker, *times: float) -> None:
    for now in times:
        admission = breaker.admit(now)
        assert admission is not None
        breaker.failed(admission, now)


def test_it_opens_at_so_many_failures_within_the_window() -> None:
    breaker = Breaker(_SETTINGS)
    failing(breaker, 0, 9)
    assert breaker.state(9) == "closed"
    failing(breaker, 9.9)
    assert breaker.state(9.9) == "open"
    assert breaker.admit(14.8) is None


def test_failures_that_are_further_apart_do_not_open_it() -> None:
    breaker = Breaker(_SETTINGS)
    failing(breaker, 0, 6, 12, 18, 24)
    assert breaker.state(24) == "closed"


def test_one_probe_decides() -> None:
    breaker = Breaker(_SETTINGS)
    failing(breaker, 0, 0, 0)
    probe = breaker.admit(5)
    assert probe is not None
    assert (breaker.state(5), breaker.admit(5)) == ("half-open", None)
    breaker.failed(probe, 6)
    assert (breaker.state(10.9), breaker.state(11)) == ("open", "half-open")
    probe = breaker.admit(11)
    assert probe is not None
    breaker.succeeded(probe)
    assert breaker.state(11) == "closed"
    failing(breaker, 11, 11)  # it counts from the beginning
    assert breaker.state(11) == "closed"


def test_a_probe_that_is_abandoned_makes_room_for_another() -> None:
    breaker = Breaker(_SETTINGS)
    failing(breaker, 0, 0, 0)
    probe = breaker.admit(5)
    assert probe is not None
    breaker.abandoned(probe)
    assert breaker.admit(5) is not None


def test_what_comes_late_is_old_news() -> None:
    breaker = Breaker(_SETTINGS)
    late = [breaker.admit(0) for _ in range(2)]
    failing(breaker, 0, 0, 0)
    assert None not in late
    breaker.succeeded(late[0])  # pyright: ignore[reportArgumentType]
    assert breaker.state(1) == "open"
    breaker.failed(late[1], 4)  # pyright: ignore[reportArgumentType]
    assert breaker.state(5) == "half-open"


@pytest.mark.parametrize(("status", "counts"), [(500, True), (599, True), (404, False), (429, True)])
def test_which_statuses_count(status: int, counts: bool) -> None:
    assert BreakerSettings(statuses=("5xx", "429")).counts(status) is counts


class Machine(RuleBasedStateMachine):
    """Against a count of what has happened since it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(_SETTINGS)
        self.out: list[tuple[Admission, str]] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def admit(self) -> None:
        state = self.breaker.state(self.now)
        probes = [one for one, of in self.out if of == "half-open" and one.period == self.breaker._period]
        admission = self.breaker.admit(self.now)
        assert (admission is None) == (state == "open" or bool(state == "half-open" and probes))
        if admission is not None:
            self.out.append((admission, state))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def give_back(self, data: st.DataObject, how: str) -> None:
        admission, of = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before, current = self.breaker.state(self.now), admission.period == self.breaker._period
        match how:
            case "succeeded":
                self.breaker.succeeded(admission)
            case "failed":
                self.breaker.failed(admission, self.now)
            case _:
                self.breaker.abandoned(admission)
        after = self.breaker.state(self.now)
        if not current or how == "abandoned":
            assert after == before
        elif of == "half-open":
            assert after == ("closed" if how == "succeeded" else "open")

    @invariant()
    def holds_no_more_than_it_needs(self) -> None:
        assert len(self.breaker._failures) < _SETTINGS.failures or self.breaker.state(self.now) == "closed"


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase


@settings(max_examples=100, deadline=None)
@given(gaps=st.lists(st.floats(0, 20), max_size=20))
def test_it_is_closed_as_long_as_no_three_failures_are_close(gaps: list[float]) -> None:
    breaker, now, times = Breaker(_SETTINGS), 0.0, list[float]()
    for gap in gaps:
        now += gap
        failing(breaker, now)
        times.append(now)
        close = len(times) > 2 and times[-3] > now - 10
        assert (breaker.state(now) == "open") == close
        if close:
            return
