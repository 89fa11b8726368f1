"""How long calls take, of the last ones."""

from __future__ import annotations

from collections import deque

_KEPT = 512


class Latencies:
    """Bound: the last `_KEPT` calls; earlier ones are forgotten."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def percentile(self, share: float) -> float | None:
        """The least that no more than ``1 - share`` of them exceed, in seconds; None where there was no call."""
        ordered = sorted(self._seconds)
        if not ordered:
            return None
        return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]
