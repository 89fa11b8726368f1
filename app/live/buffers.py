"""What waits for one subscriber, and what becomes of it when that is too much. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from app.live.events import Event, EventId, lagged

type Policy = Literal["drop-oldest", "coalesce", "disconnect", "block"]


@dataclass
class Lost:
    """Events that one subscriber did not get, since it was told last."""

    count: int = 0
    first: EventId | None = None
    last: EventId | None = None
    reasons: dict[str, None] = field(default_factory=dict[str, None])

    def add(self, event: Event, reason: str) -> None:
        if event.id is None:
            return
        self.count += 1
        self.reasons[reason] = None
        if self.first is None or event.sequence < self.first.sequence:
            self.first = event.id
        if self.last is None or event.sequence > self.last.sequence:
            self.last = event.id

    def told(self) -> Event | None:
        if self.first is None or self.last is None:
            return None
        return lagged(self.count, self.first, self.last, ", ".join(self.reasons))


class Buffer:
    """Events in order, for one subscriber that takes them when it can.

    Bound: ``most_events``, and ``most_bytes`` of data, or one event; and notices. Past it, by ``policy``:

    - ``drop-oldest``: the oldest are dropped;
    - ``coalesce``: of events with the same key only the newest is kept, full or not; then as above;
    - ``disconnect``: nothing more is taken, and what is there is the last that the subscriber gets;
    - ``block``: nothing more is taken: whoever offers asks for `has_room` first.

    What was dropped is told with the next `take`, before the events that follow it.

    key: the member of an event's data that is its key, if it has one. dropped: events, since the start, that the
    subscriber does not get.
    """

    def __init__(
        self,
        policy: Policy,
        most_events: int,
        most_bytes: int,
        key: str | None = None,
    ) -> None:
        self.bytes = 0
        self.dropped = 0
        self.overflowed = False
        self._policy: Policy = policy
        self._most_events, self._most_bytes = most_events, most_bytes
        self._key = key
        self._events: OrderedDict[int, Event] = OrderedDict()
        self._count = 0
        self._by_key: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        self._lost = Lost()

    def __len__(self) -> int:
        return len(self._events)

    def has_room(self, event: Event) -> bool:
        if event.id is None:  # rare, and what tells of a loss must not be lost for want of room
            return True
        events = self._events
        if len(events) >= self._most_events:
            return False
        return not events or self.bytes + event.size <= self._most_bytes

    def put(self, event: Event) -> bool:
        """Whether it was taken. A subscriber whose policy is ``disconnect`` has `overflowed` where it was not."""
        if self.overflowed:
            return False
        if self._policy == "coalesce":
            self._replace(event)
        if not self.has_room(event):
            if self._policy == "disconnect":
                self.overflowed = True
                self.dropped += 1
            if self._policy in {"disconnect", "block"}:
                return False
            while self._events and not self.has_room(event):
                self._lose(next(iter(self._events)), "dropped")
        self._count += 1
        self._events[self._count] = event
        self.bytes += event.size
        return True

    def take(self, most_bytes: int) -> list[Event]:
        """What comes next, of about ``most_bytes`` at most, but one event if there is any."""
        told = self._lost.told()
        taken: list[Event] = []
        if told is not None:
            self._lost = Lost()
            taken.append(told)
        size = 0
        while self._events and (size == 0 or size < most_bytes):
            event = self._remove(next(iter(self._events)))
            taken.append(event)
            size += max(1, event.size)
        return taken

    def _replace(self, event: Event) -> None:
        key = None if self._key is None else event.member(self._key)
        if key is None:
            return
        if (earlier := self._by_key.get(key)) is not None:
            self._lose(earlier, "coalesced")
        self._by_key[key] = self._count + 1
        self._keys[self._count + 1] = key

    def _lose(self, number: int, reason: str) -> None:
        self._lost.add(self._remove(number), reason)
        self.dropped += 1

    def _remove(self, number: int) -> Event:
        event = self._events.pop(number)
        self.bytes -= event.size
        if (key := self._keys.pop(number, None)) is not None and self._by_key.get(key) == number:
            del self._by_key[key]
        return event
