"""How far back a history goes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """What is kept of a topic: the newest events at most, of so many bytes of data, and so many seconds old."""

    events: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Stored:
    """An event as far as that matters. size: its bytes of data. bytes: of all of the topic's events up to this one."""

    sequence: int
    size: int
    bytes: int
    created: float


@dataclass(frozen=True)
class Head:
    """Where a topic is: its newest event's sequence, and the bytes of all that there ever were."""

    epoch: str
    sequence: int
    bytes: int


def expired(oldest: Sequence[Stored], head: Head, bounds: Bounds, now: float) -> int | None:
    """The last sequence of ``oldest``, in order from the first, that is behind the horizon; None where none is."""
    found: int | None = None
    for stored in oldest:
        too_many = head.sequence - stored.sequence >= bounds.events
        too_large = head.bytes - stored.bytes + stored.size > bounds.bytes
        if not (too_many or too_large or now - stored.created > bounds.seconds):
            break
        found = stored.sequence
    return found
