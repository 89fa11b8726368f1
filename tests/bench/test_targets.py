"""Verdicts: which figure is held against which bound, and by how much it misses."""

from __future__ import annotations

import pytest

from tests.bench.targets import Target, judge


def _rate(at_least: float | None = None, at_most: float | None = None) -> Target:
    return Target("rate", "ours", "rate", to="theirs", at_least=at_least, at_most=at_most)


@pytest.mark.parametrize(
    ("target", "ours", "found", "met", "words"),
    [
        (_rate(at_least=5), [1000], 10, True, "met"),
        (_rate(at_least=10), [1000], 10, True, "met"),
        (_rate(at_least=5), [100, 9000, 400], 4, False, "missed by 20%"),
        (_rate(at_most=2), [150], 1.5, True, "met"),
        (_rate(at_most=2), [300], 3, False, "missed by 50%"),
        (_rate(), [300], 3, None, ""),
    ],
)
def test_medians_are_compared_as_multiples(
    target: Target, ours: list[float], found: float, met: bool | None, words: str
) -> None:
    verdict = judge(target, {"ours": ours, "theirs": [90, 100, 5000]})
    assert (verdict.found, verdict.met, verdict.words) == (pytest.approx(found), met, words)


def test_the_worst_round_counts_where_a_target_says_so() -> None:
    most = Target("growth", "ours", "growth", at_most=32, worst=True)
    least = Target("rate", "ours", "growth", at_least=2, worst=True)
    assert judge(most, {"ours": [1, 40, 2]}).words == "missed by 25%"
    assert judge(least, {"ours": [1, 40, 2]}).words == "missed by 50%"


@pytest.mark.parametrize("figures", [{}, {"ours": [1.0]}, {"theirs": [1.0]}, {"ours": [1.0], "theirs": [0.0]}])
def test_what_was_not_measured_is_neither_met_nor_missed(figures: dict[str, list[float]]) -> None:
    verdict = judge(_rate(at_least=1), figures)
    assert (verdict.found, verdict.met, verdict.words) == (None, None, "not measured")


def test_a_bound_is_told_in_short() -> None:
    assert [_rate(at_least=5).bound, _rate(at_most=1 / 3).bound, _rate().bound] == ["≥ 5", "≤ 0.33", ""]
