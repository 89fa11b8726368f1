"""When to try again: exponential backoff with full jitter, as a decision without I/O."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """The times at which something that failed may be tried again; one try at a time while it fails.

    least, most: bounds of the ceiling in seconds, which doubles with each failure; the wait is a random part of it
    ("full jitter", so that many clients of a server that comes back do not come at once), but at least ``least``.
    """

    least: float = 0.1
    most: float = 2.0
    jitter: Callable[[], float] = field(default=random.random, repr=False)
    failures: int = 0
    _not_before: float = 0.0
    _trying: bool = False

    def wait(self, now: float) -> float:
        """Seconds until a try makes sense; 0 where one may be made now."""
        if self.failures == 0:
            return 0.0
        if self._trying:
            return self.least
        return max(0.0, self._not_before - now)

    def begin(self) -> None:
        """A try begins; until it ends, nobody else may try what has failed before."""
        self._trying = True

    def succeeded(self) -> None:
        self.failures = 0
        self._trying = False

    def failed(self, now: float) -> None:
        ceiling = min(self.most, self.least * 2.0**self.failures)
        self.failures = min(self.failures + 1, 64)
        self._not_before = now + max(self.least, ceiling * self.jitter())
        self._trying = False

    def abandoned(self) -> None:
        """A try was cancelled: it says nothing about the other side."""
        self._trying = False
