"""How requests end, in the words of log, metrics and traces."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from app.errors import DeadlineExceeded, Overloaded, ShuttingDown, SluiceError

type Outcome = Literal["ok", "client_error", "error", "disconnected", "deadline", "overloaded", "shutdown"]

_OF_ERRORS: dict[type[object], Outcome] = {
    DeadlineExceeded: "deadline",
    Overloaded: "overloaded",
    ShuttingDown: "shutdown",
}


class EndedRequest(msgspec.Struct, omit_defaults=True, gc=False):
    """What log and metrics say of a request. It is made for each, as the log's line has it, so that what is made of
    many of them at once takes next to nothing.

    path: as it was asked for; route: its template. status: 499 for one whose client has left; None where it was not
    answered. ms, first_byte_ms: milliseconds since it came. bytes, bytes_in: of the bodies that went out and came in.
    client: its address. sampled: whether its trace can be looked up.
    """

    method: str
    path: str
    route: str
    status: int | None
    outcome: str
    ms: float
    first_byte_ms: float | None
    bytes: int
    client: str | None
    request_id: str
    timestamp: datetime
    event: str
    level: str
    bytes_in: int = 0
    trace_id: str | None = None
    sampled: bool = False


def outcome_of(status: int, error: SluiceError | None = None) -> Outcome:
    """Of a whole answer. error: what it tells of, if that is what it does."""
    if (outcome := _OF_ERRORS.get(type(error))) is not None:
        return outcome
    if status >= 500:
        return "error"
    return "client_error" if status >= 400 else "ok"
