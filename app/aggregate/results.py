"""What came of a source, and how that is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from app.errors import SluiceError, UpstreamFailed, UpstreamTooLate
from app.http.events import encode_event
from app.http.problems import content_of

type Origin = Literal["live", "stale", "fallback"]

CANCELLED = "cancelled"
TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Settled:
    """A source that is done. value: JSON in one line; None where there is none. reason: why there is no live one.

    ms: since the view was begun. attempts: calls that were made for it.
    """

    source: str
    required: bool
    value: bytes | None
    reason: str | None
    ms: float
    attempts: int
    origin: Origin = "live"

    @property
    def is_live(self) -> bool:
        return self.reason is None

    @property
    def is_missing(self) -> bool:
        """Whether the view fails with it."""
        return self.required and self.value is None

    def content(self) -> dict[str, object]:
        told: dict[str, object] = {"status": "rejected" if self.value is None else "fulfilled"}
        if self.value is not None:
            told["value"] = msgspec.Raw(self.value)
        if self.reason is not None:
            told["reason"] = self.reason
        return told | {"ms": round(self.ms, 1), "attempts": self.attempts, "from": self.origin}


def is_complete(settled: Iterable[Settled]) -> bool:
    return all(one.is_live for one in settled)


def as_json(settled: Sequence[Settled]) -> bytes:
    """All of a view."""
    sources = {one.source: one.content() for one in settled}
    return msgspec.json.encode({"complete": is_complete(settled), "sources": sources})


def as_line(one: Settled) -> bytes:
    """Of NDJSON."""
    return _told(one) + b"\n"


def as_event(one: Settled) -> bytes:
    return encode_event(_told(one), event="source")


def last_event(settled: Sequence[Settled]) -> bytes:
    """By which an EventSource knows that nothing follows, and that it is not to come again."""
    return encode_event(msgspec.json.encode({"complete": is_complete(settled)}), event="complete")


def problem_event(error: SluiceError) -> bytes:
    return encode_event(msgspec.json.encode(content_of(error)), event="problem")


def failure_of(view: str, settled: Sequence[Settled]) -> SluiceError:
    """What a view is answered with that lacks what it requires."""
    missing = [one for one in settled if one.is_missing and one.reason != CANCELLED]
    late = all(one.reason == TIMEOUT for one in missing)
    told = ", ".join(f"{one.source} ({one.reason})" for one in missing)
    members = {"sources": {one.source: one.content() for one in settled}}
    kind = UpstreamTooLate if late else UpstreamFailed
    return kind(f"the view {view} requires what failed: {told}", members=members)


def _told(one: Settled) -> bytes:
    return msgspec.json.encode({"source": one.source} | one.content())
