"""What figures shall be, and whether they are."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A bound of one figure of one peer.

    to: the peer of whose figure the bound is a multiple; without one it is absolute. worst: the worst round counts, not
    the median. Without a bound the figure is told only.
    """

    words: str
    peer: str
    figure: str
    to: str = ""
    at_least: float | None = None
    at_most: float | None = None
    worst: bool = False

    @property
    def bound(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {round(self.at_most, 2):g}"


@dataclass(frozen=True)
class Verdict:
    """found: the figure, or its multiple of the other peer's; None where it was not measured.

    met: None without a bound.
    """

    target: Target
    found: float | None
    met: bool | None
    words: str


def judge(target: Target, figures: Mapping[str, Sequence[float]]) -> Verdict:
    """``figures``: by peer, that one of each round that counts."""
    own, other = figures.get(target.peer, ()), figures.get(target.to, ())
    if not own or (target.to and (not other or not statistics.median(other))):
        return Verdict(target, None, None, "not measured")
    pick = (min if target.at_least is not None else max) if target.worst else statistics.median
    found = pick(own) / (statistics.median(other) if target.to else 1)
    if target.at_least is not None:
        return _verdict(target, found, found >= target.at_least, 1 - found / target.at_least)
    if target.at_most is not None:
        return _verdict(target, found, found <= target.at_most, found / target.at_most - 1)
    return Verdict(target, found, None, "")


def _verdict(target: Target, found: float, met: bool, missing: float) -> Verdict:
    return Verdict(target, found, met, "met" if met else f"missed by {missing:.0%}")
