"""Events and their ids, encoded for both ways on which they leave. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from app.errors import BadRequest
from app.http.events import encode_event

MAX_DATA = 64 * 1024
USUAL_TYPE = "message"
_LONGEST_TYPE = 128
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ID = re.compile(r"([0-9a-f]{1,16})-([0-9]{1,18})")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NOT_IN_A_TYPE = re.compile("[\r\n\0\ud800-\udfff]")
# What we tell of what is missing: nobody else may say so.
_OURS = frozenset(("gap", "lagged"))


@dataclass(frozen=True, slots=True)
class EventId:
    """Written ``EPOCH-SEQUENCE``. The sequence of a topic has no holes, and rises by one with each event; it begins
    anew, in another epoch, when the topic was forgotten after a long silence, or the database is another one."""

    epoch: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"


BEFORE_ALL = EventId("0", 0)
"""Where a topic is that nobody has published to yet."""


def parse_id(text: str) -> EventId | None:
    """None where it is none of ours."""
    match = _ID.fullmatch(text)
    return None if match is None else EventId(match[1], int(match[2]))


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be published. data: JSON without whitespace between its parts, so in one line."""

    type: str
    data: bytes


@dataclass(frozen=True)
class Event:
    """An event, or, without an id, a notice of ours to one subscriber. It is encoded once, whoever gets it."""

    id: EventId | None
    type: str
    data: bytes

    @property
    def sequence(self) -> int:
        """0 of a notice."""
        return 0 if self.id is None else self.id.sequence

    @cached_property
    def sse(self) -> bytes:
        """As a server-sent event."""
        return encode_event(self.data, id=None if self.id is None else str(self.id), event=self.type)

    @cached_property
    def message(self) -> str:
        """As the text of a WebSocket's message."""
        head = msgspec.json.encode({"id": None if self.id is None else str(self.id), "event": self.type})
        return (head[:-1] + b',"data":' + self.data + b"}").decode()

    @property
    def size(self) -> int:
        return len(self.data)

    def member(self, name: str) -> bytes | None:
        """The JSON text of that member of its data, which is an object with it; else None. It is looked for once."""
        found = self._found
        if name not in found:
            found[name] = None if self.id is None else _member(self.data, name)
        return found[name]

    @cached_property
    def _found(self) -> dict[str, bytes | None]:
        return {}


def _member(data: bytes, name: str) -> bytes | None:
    try:
        value = _members.decode(data).get(name)
    except (msgspec.DecodeError, RecursionError):  # how deep it may be depends on who asks: another task has less room
        return None
    return None if value is None else bytes(value)


@dataclass(frozen=True)
class Burst:
    """Events, in order, that come at once."""

    events: Sequence[Event]

    @cached_property
    def sse(self) -> bytes:
        return self.events[0].sse if len(self.events) == 1 else b"".join([event.sse for event in self.events])


def gap(after: str | None, before: EventId | None, reason: str) -> Event:
    """Events are missing behind ``after``, the last one that is known, and before the next one that comes."""
    told = {"after": after, "before": None if before is None else str(before), "reason": reason}
    return Event(None, "gap", msgspec.json.encode(told))


def lagged(dropped: int, first: EventId, last: EventId, reason: str) -> Event:
    """So many events, from one id to the other, were not taken in time."""
    told = {"dropped": dropped, "first": str(first), "last": str(last), "reason": reason}
    return Event(None, "lagged", msgspec.json.encode(told))


def check_topic(name: str) -> str:
    """*Errors*: BadRequest."""
    if _TOPIC.fullmatch(name) is None or name in {".", ".."}:
        raise BadRequest("a topic is 1 to 128 of A-Z a-z 0-9 . _ -, and neither . nor ..")
    return name


def check_type(given: str | None) -> str:
    """The type of an event that is to be published. *Errors*: BadRequest."""
    if given is None:
        return USUAL_TYPE
    if not 1 <= len(given) <= _LONGEST_TYPE or _NOT_IN_A_TYPE.search(given):
        raise BadRequest(f"event: 1 to {_LONGEST_TYPE} characters are allowed, none of them a line end or NUL")
    if given in _OURS:
        raise BadRequest(f"event: {given!r} is what the server says of events that are missing")
    return given
