"""How long tasks wait and run, as moving means: by these it is guessed how long others will."""

from __future__ import annotations

import math

_WEIGHT = 0.2
_NEVER_RUN_SECONDS = 1.0


class Means:
    """In seconds. Bound: an entry for each task that there is.

    waited, ran: of all calls.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self.ran = 0.0
        self._by_task: dict[str, float] = {}

    def has_waited(self, seconds: float) -> None:
        self.waited += _WEIGHT * (seconds - self.waited)

    def has_run(self, task: str | None, seconds: float) -> None:
        """task: None where its name is not known."""
        self.ran += (_WEIGHT if self.ran else 1) * (seconds - self.ran)
        if task is not None:
            before = self._by_task.get(task, seconds)
            self._by_task[task] = before + _WEIGHT * (seconds - before)

    def of(self, task: str | None) -> float:
        """How long that task runs; for ever, as far as is known, where it never has."""
        return math.inf if task is None else self._by_task.get(task, math.inf)

    def wait(self, accepted: int, workers: int) -> float:
        """After how long there is a place again where ``accepted`` wait or run."""
        return max(self.waited, (self.ran or _NEVER_RUN_SECONDS) * max(1, accepted - workers) / workers)
