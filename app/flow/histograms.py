"""How long things take, counted by size: cheap enough to be done each time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of buckets, for what takes from half a millisecond to a minute."""


class Histogram:
    """How many values there were up to each bound, and their sum. For the event loop's thread.

    bounds: rising, each the greatest value of its bucket; there is one bucket more, for what is greater.
    counts: of each bucket by itself.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[self.bucket_of(value)] += 1
        self.total += value

    def bucket_of(self, value: float) -> int:
        return bisect_left(self.bounds, value)

    def observe_all(self, values: Iterable[float]) -> None:
        """Many at once: for each of them it takes a part of what `observe` does."""
        ordered = sorted(values)
        below = 0
        for bucket, bound in enumerate(self.bounds):
            if below == len(ordered):
                break
            up_to = bisect_right(ordered, bound, below)
            self.counts[bucket] += up_to - below
            below = up_to
        self.counts[-1] += len(ordered) - below
        self.total += sum(ordered)
