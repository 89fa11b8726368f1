"""How requests end, in the words of log, metrics and traces."""

from __future__ import annotations

from typing import Literal

from app.errors import DeadlineExceeded, Overloaded, ShuttingDown, SluiceError

type Outcome = Literal["ok", "client_error", "error", "disconnected", "deadline", "overloaded", "shutdown"]

_OF_ERRORS: dict[type[object], Outcome] = {
    DeadlineExceeded: "deadline",
    Overloaded: "overloaded",
    ShuttingDown: "shutdown",
}


def outcome_of(status: int, error: SluiceError | None = None) -> Outcome:
    """Of a whole answer. error: what it tells of, if that is what it does."""
    if (outcome := _OF_ERRORS.get(type(error))) is not None:
        return outcome
    if status >= 500:
        return "error"
    return "client_error" if status >= 400 else "ok"
