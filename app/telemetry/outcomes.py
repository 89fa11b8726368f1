"""How requests end, in the words of log, metrics and traces."""

from __future__ import annotations

from typing import Literal

import msgspec

from app.errors import DeadlineExceeded, Overloaded, ShuttingDown, SluiceError

type Outcome = Literal["ok", "client_error", "error", "disconnected", "deadline", "overloaded", "shutdown"]

_OF_ERRORS: dict[type[object], Outcome] = {
    DeadlineExceeded: "deadline",
    Overloaded: "overloaded",
    ShuttingDown: "shutdown",
}


class EndedRequest(msgspec.Struct, gc=False):
    """What log and metrics say of a request. It is made for each, and read when many of them have been.

    path: as it was asked for; route: its template. status: 499 for one whose client has left; None where it was not
    answered. seconds, first_byte: since it came. sent, taken: bytes of bodies. client: its address. sampled: whether
    its trace can be looked up. at: nanoseconds since the epoch.
    """

    method: str
    path: str
    route: str
    status: int | None
    outcome: str
    seconds: float
    first_byte: float | None
    sent: int
    taken: int
    client: str | None
    request_id: str
    trace_id: str | None
    sampled: bool
    at: int


def outcome_of(status: int, error: SluiceError | None = None) -> Outcome:
    """Of a whole answer. error: what it tells of, if that is what it does."""
    if (outcome := _OF_ERRORS.get(type(error))) is not None:
        return outcome
    if status >= 500:
        return "error"
    return "client_error" if status >= 400 else "ok"
