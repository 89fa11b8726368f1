"""A circuit breaker: who has failed again and again is left alone for a while. Decisions only, without clock or I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from app.config.aggregate import BreakerSettings

type State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that may be made. period: between two changes of the state, whose end makes its outcome old news."""

    period: int


class Breaker:
    """Closed, all calls go. After so many failures within the window it opens, and none goes until ``reset`` is over;
    then one goes as a probe (half-open): it closes the breaker, or opens it anew.

    Each admission is given back by one of `succeeded`, `failed`, `abandoned`. now: seconds, of any clock.

    Bound: as many times as failures that open it.
    """

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._failures: deque[float] = deque(maxlen=settings.failures)
        self._period = 0
        self._opened: float | None = None
        self._probing = False

    def state(self, now: float) -> State:
        if self._opened is None:
            return "closed"
        return "open" if now < self._opened + self._settings.reset else "half-open"

    def admits(self, now: float) -> bool:
        """Whether a call may be made."""
        match self.state(now):
            case "open":
                return False
            case "half-open":
                return not self._probing
            case "closed":
                return True

    def admit(self, now: float) -> Admission | None:
        """None where no call may be made."""
        if not self.admits(now):
            return None
        self._probing = self._opened is not None
        return Admission(self._period)

    def succeeded(self, admission: Admission) -> None:
        if admission.period == self._period and self._opened is not None:
            self._turn(None)

    def failed(self, admission: Admission, now: float) -> None:
        if admission.period != self._period:
            return
        if self._opened is not None:
            self._turn(now)
            return
        self._failures.append(now)
        if len(self._failures) == self._settings.failures and self._failures[0] > now - self._settings.window:
            self._turn(now)

    def abandoned(self, admission: Admission) -> None:
        """It was ended from our side, and says nothing of the other."""
        if admission.period == self._period:
            self._probing = False

    def _turn(self, opened: float | None) -> None:
        self._opened = opened
        self._probing = False
        self._period += 1
        self._failures.clear()
