"""Histories are kept within their bounds, and topics that nobody speaks of are forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
import trio

from app.config.live import TopicSettings
from app.errors import SluiceError
from app.live.events import Event
from app.live.horizon import Bounds, Head, expired
from app.live.store import Store

_log = structlog.get_logger()

SILENT_SECONDS = 24 * 3600.0
"""After so long without an event, a topic whose history has expired is forgotten, and its epoch ends."""
_ROUND_SECONDS = 60.0
_MOST_EVENTS, _MOST_BYTES = 2000, 4 * 1024 * 1024
_BATCH_EVENTS = 200
_BATCH_TOPICS = 100


class Upkeep:
    """Trims what was published here once it has become `_MOST_EVENTS` or `_MOST_BYTES`, and every topic each
    `_ROUND_SECONDS`: by so much, and what comes meanwhile, a history may be longer than it should.

    Bound: `_BATCH_EVENTS` rows a statement.
    """

    def __init__(
        self, store: Store, settings_of: Callable[[str], TopicSettings], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._settings_of = settings_of
        self._clock = clock
        self._grown: dict[str, None] = {}
        self._events = self._bytes = 0
        self._due = trio.Event()

    def published(self, name: str, events: Sequence[Event]) -> None:
        self._grown[name] = None
        self._events += len(events)
        self._bytes += sum(event.size for event in events)
        if self._events >= _MOST_EVENTS or self._bytes >= _MOST_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Trims, until it is cancelled."""
        next_round = trio.current_time() + _ROUND_SECONDS
        while True:
            with trio.move_on_at(next_round):
                await self._due.wait()
            try:
                await self._trim_grown()
                if trio.current_time() >= next_round:
                    next_round = trio.current_time() + _ROUND_SECONDS
                    await self.go_round()
            except SluiceError as error:
                next_round = trio.current_time() + _ROUND_SECONDS
                _log.warning("history not trimmed", reason=error.internal or error.detail)

    async def go_round(self) -> None:
        """All topics, once."""
        after = ""
        while heads := await self._store.topics(after, _BATCH_TOPICS):
            for after, head in heads.items():
                await self._trim(after, head)
                if not await self._store.oldest(after, 1):
                    await self._store.forget(after, self._clock() - SILENT_SECONDS)

    async def _trim_grown(self) -> None:
        self._due = trio.Event()
        self._events = self._bytes = 0
        names, self._grown = list(self._grown), {}
        for start in range(0, len(names), _BATCH_TOPICS):
            for name, head in (await self._store.heads(names[start : start + _BATCH_TOPICS])).items():
                await self._trim(name, head)

    async def _trim(self, name: str, head: Head) -> None:
        settings = self._settings_of(name)
        bounds = Bounds(settings.history_events, settings.history_bytes, settings.history_seconds)
        while oldest := await self._store.oldest(name, _BATCH_EVENTS):
            last = expired(oldest, head, bounds, self._clock())
            if last is None:
                return
            await self._store.remove(name, oldest[0].sequence, last)
            if last < oldest[-1].sequence:
                return
