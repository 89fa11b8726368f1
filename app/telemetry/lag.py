"""The event loop's lag: how late it wakes a task that sleeps, measured all the time."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from dataclasses import dataclass

import trio

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds."""
_STEP_SECONDS = 0.05


@dataclass(frozen=True)
class LagStatistics:
    """counts: of each bucket of `LAG_BUCKETS` by itself, and one more for what is greater. total_seconds: of all
    ``samples``."""

    counts: tuple[int, ...]
    total_seconds: float
    samples: int


class LoopLag:
    """Twenty samples a second. A step of the loop that takes long shows as one late sample.

    due: when the next sample is, by `time.monotonic`, which a suspended machine does not count; infinite while none is
    taken. beats: samples so far. last: the last one, in seconds. All three may be read in another thread.
    """

    def __init__(self) -> None:
        self.due = math.inf
        self.beats = 0
        self.last = 0.0
        self._counts = [0] * (len(LAG_BUCKETS) + 1)
        self._total = 0.0

    async def run(self) -> None:
        """Measures for as long as it runs."""
        try:
            while True:
                due = time.monotonic() + _STEP_SECONDS
                self.due = due
                await trio.sleep(_STEP_SECONDS)
                self.due = math.inf  # before it is counted: nobody is to take the next sample for late
                self._take(max(0.0, time.monotonic() - due))
        finally:
            self.due = math.inf

    def statistics(self) -> LagStatistics:
        return LagStatistics(tuple(self._counts), self._total, self.beats)

    def _take(self, seconds: float) -> None:
        self._counts[bisect_left(LAG_BUCKETS, seconds)] += 1
        self._total += seconds
        self.last = seconds
        self.beats += 1
