"""Topics and their events as rows."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from app.errors import DatabaseUnavailable, DuplicateKey
from app.live.events import Draft, Event, EventId
from app.live.horizon import Head, Stored
from app.storage.database import Database, Row, Rows, Transaction

_TRIES = 3
_EPOCH_BYTES = 4
# Of parameters in a statement, which SQLite bounds.
_MOST_ROWS = 100


@dataclass(frozen=True)
class Page:
    """Events in order behind a sequence, and the epoch that the topic is in; None where there is nothing to read."""

    epoch: str | None
    events: Sequence[Event]


class _NoTopic(Exception):
    """A topic has no row yet, or no more."""


class Store:
    """*Errors*: those of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- writing -------------------------------------------------------------------------------------------------------

    async def append(self, drafts: Mapping[str, Sequence[Draft]], now: float) -> Mapping[str, Sequence[Event]]:
        """Appends to several topics, in one transaction: all of it or nothing.

        Each topic's row is locked from its sequence being taken to the commit, so that the order of the sequence is
        that of commits, and it has no holes. The rows are locked in the order of their names.
        """
        for _ in range(_TRIES):
            with suppress(_NoTopic):
                async with self._database.transaction() as transaction:
                    return {name: await self._append(transaction, name, drafts[name], now) for name in sorted(drafts)}
            for name in sorted(drafts):
                await self._create(name, now)
        raise DatabaseUnavailable("the topic cannot be written to now", retry_after=1, internal="its row is not there")

    async def _append(self, transaction: Transaction, name: str, drafts: Sequence[Draft], now: float) -> list[Event]:
        size = sum(len(draft.data) for draft in drafts)
        if not await transaction.execute(_ADVANCE, (len(drafts), size, now, name)):
            raise _NoTopic
        ((epoch, last, total),) = cast(
            "list[tuple[str, int, int]]", await transaction.fetch(f"{_HEADS} topic = ?", (name,))
        )
        first, total = last - len(drafts) + 1, total - size
        rows: list[tuple[str, int, str, bytes, int, float]] = []
        for sequence, draft in enumerate(drafts, first):
            total += len(draft.data)
            rows.append((name, sequence, draft.type, draft.data, total, now))
        for start in range(0, len(rows), _MOST_ROWS):
            part = rows[start : start + _MOST_ROWS]
            values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(part))
            await transaction.execute(f"{_INSERT} {values}", [value for row in part for value in row])
        return [Event(EventId(epoch, sequence), draft.type, draft.data) for sequence, draft in enumerate(drafts, first)]

    async def _create(self, name: str, now: float) -> None:
        with suppress(DuplicateKey):
            await self._database.execute(_CREATE, (name, secrets.token_hex(_EPOCH_BYTES), now))

    # -- reading -------------------------------------------------------------------------------------------------------

    async def heads(self, names: Sequence[str]) -> Mapping[str, Head]:
        """Of those of the topics ``names`` that there are."""
        marks = ", ".join("?" * len(names))
        rows = await self._database.fetch(f"{_NAMED_HEADS} topic IN ({marks})", names)
        return _heads(rows)

    async def read(self, name: str, after: int, most: int) -> Page:
        """Up to ``most`` events behind the sequence ``after``, as one look at the database sees them."""
        rows = await self._database.fetch(f"{_READ} LIMIT {most:d}", (name, after))
        events = [_event(row) for row in rows]
        return Page(cast("str", rows[0][0]) if rows else None, events)

    # -- forgetting ----------------------------------------------------------------------------------------------------

    async def topics(self, after: str, most: int) -> Mapping[str, Head]:
        """The topics behind the name ``after``, in order."""
        rows = await self._database.fetch(f"{_NAMED_HEADS} topic > ? ORDER BY topic LIMIT {most:d}", (after,))
        return _heads(rows)

    async def oldest(self, name: str, most: int) -> list[Stored]:
        rows = await self._database.fetch(f"{_OLDEST} LIMIT {most:d}", (name,))
        return [Stored(*row) for row in cast("list[tuple[int, int, int, float]]", rows)]

    async def remove(self, name: str, first: int, last: int) -> None:
        await self._database.execute(_REMOVE, (name, first, last))

    async def forget(self, name: str, silent_since: float) -> None:
        """A topic without events that nobody has published to since then: its epoch ends."""
        async with self._database.transaction() as transaction:
            # Its row first, as whoever publishes does.
            if await transaction.execute(_TOUCH, (name, silent_since)):
                await transaction.execute(_FORGET, (name, name))


def _heads(rows: Rows) -> dict[str, Head]:
    named = cast("list[tuple[str, str, int, int]]", rows)
    return {name: Head(epoch, sequence, size) for name, epoch, sequence, size in named}


def _event(row: Row) -> Event:
    epoch, sequence, kind, data = cast("tuple[str, int, str, bytes]", row)
    return Event(EventId(epoch, sequence), kind, data)


_ADVANCE = "UPDATE live_topics SET sequence = sequence + ?, bytes = bytes + ?, published = ? WHERE topic = ?"
_HEADS = "SELECT epoch, sequence, bytes FROM live_topics WHERE"
_NAMED_HEADS = "SELECT topic, epoch, sequence, bytes FROM live_topics WHERE"
_INSERT = "INSERT INTO live_events (topic, sequence, type, data, bytes, created) VALUES"
_CREATE = "INSERT INTO live_topics (topic, epoch, sequence, bytes, published) VALUES (?, ?, 0, 0, ?)"
_READ = (
    "SELECT t.epoch, e.sequence, e.type, e.data FROM live_events e JOIN live_topics t ON t.topic = e.topic"
    " WHERE e.topic = ? AND e.sequence > ? ORDER BY e.sequence"
)
_OLDEST = "SELECT sequence, LENGTH(data), bytes, created FROM live_events WHERE topic = ? ORDER BY sequence"
_REMOVE = "DELETE FROM live_events WHERE topic = ? AND sequence >= ? AND sequence <= ?"
_TOUCH = "UPDATE live_topics SET published = published WHERE topic = ? AND published < ?"
_FORGET = "DELETE FROM live_topics WHERE topic = ? AND NOT EXISTS (SELECT 1 FROM live_events WHERE topic = ?)"
