"""Rooms of live topics on one database, as several instances have them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from app.config.live import LiveSettings, TopicSettings
from app.flow.drain import DrainGate
from app.live.events import Event
from app.live.service import Live, open_live
from app.live.subscription import Position, Subscription
from app.storage.database import Database
from app.transforms.events import on_each_record


class Client:
    """One that reads a subscription, event by event, when a test says so."""

    def __init__(self, subscription: Subscription, batches: AsyncIterator[Sequence[Event]]) -> None:
        self.subscription = subscription
        self._batches = batches
        self._events: list[Event] = []
        self.batches: list[int] = []

    async def next(self) -> Event:
        """*Errors*: StopAsyncIteration at the end."""
        with trio.fail_after(20):
            while not self._events:
                batch = await anext(self._batches)
                self.batches.append(len(batch))
                self._events += batch
        return self._events.pop(0)

    async def read(self, count: int) -> list[Any]:
        """Of so many events the data; of notices their type and data."""
        return [seen(await self.next()) for _ in range(count)]


def seen(event: Event) -> Any:
    data = json.loads(event.data)
    return data if event.id is not None else (event.type, data)


@dataclass(frozen=True)
class Room:
    """One instance's topics."""

    live: Live
    gate: DrainGate

    async def publish(self, topic: str, *data: object, kind: str | None = None) -> list[str]:
        return [str(await self.live.publish(topic, kind, json.dumps(one).encode())) for one in data]

    @asynccontextmanager
    async def client(self, topic: str, after: str | None = None, *, beginning: bool = False) -> AsyncGenerator[Client]:
        async with self.live.subscribe(topic, Position(after, beginning)) as subscription:
            batches = subscription.batches()
            try:
                yield Client(subscription, batches)
            finally:
                await batches.aclose()


@asynccontextmanager
async def open_room(
    database: Database, settings: LiveSettings | Mapping[str, TopicSettings] | None = None
) -> AsyncGenerator[Room]:
    """settings: all, or only those of topics."""
    gate = DrainGate()
    if not isinstance(settings, LiveSettings):
        settings = LiveSettings(topics=settings or {})
    async with open_live(database, gate, settings, on_each_record) as live:
        yield Room(live, gate)


@pytest.fixture
async def room(database: Database) -> AsyncIterator[Room]:
    async with open_room(database) as opened:
        yield opened
