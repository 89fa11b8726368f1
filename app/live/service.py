"""The use cases of live topics: publish, and subscribe."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import msgspec
import trio

from app.config.live import LiveSettings, TopicSettings
from app.errors import BodyTooLarge, Forbidden, StartError
from app.flow.drain import DrainGate
from app.flow.spans import span
from app.http.strict_json import well_formed
from app.live.derivations import Derivations, Derive
from app.live.events import MAX_DATA, Draft, Event, EventId, check_topic, check_type
from app.live.hub import Hub, HubStatistics
from app.live.publisher import Publisher, PublisherStatistics
from app.live.store import Store
from app.live.subscription import Position, Subscription, open_subscription
from app.live.topic import SendNow
from app.live.upkeep import Upkeep
from app.storage.database import Database
from app.storage.lookup import open_lookup

# What subscribers may take to take the end that they are told.
_LAST_WORDS_SECONDS = 1.0

type MakeSteps = Callable[[Sequence[str]], Derive]
"""What steps, as they are written, make of an event's data. *Errors*: ValueError where they are none."""


@dataclass(frozen=True)
class LiveStatistics:
    publisher: PublisherStatistics
    hub: HubStatistics


class Live:
    """*Errors* of everything here: those of the database."""

    def __init__(self, hub: Hub, store: Store, publisher: Publisher, derivations: Derivations) -> None:
        self._hub, self._store = hub, store
        self._publisher = publisher
        self._derivations = derivations

    def settings_of(self, topic: str) -> TopicSettings:
        return self._hub.settings_of(topic)

    async def publish(self, topic: str, kind: str | None, json: bytes) -> EventId:
        """The id of the event, which is committed then, and with it those derived from it.

        Where a subscriber of this process, to a topic whose policy is to block, or to one derived from it, has no room,
        this waits for it.

        *Errors*: BadRequest, BadJson, BodyTooLarge; Forbidden where the topic is derived from another one.
        """
        draft = Draft(check_type(kind), compact(json))
        check_topic(topic)
        if (source := self._derivations.source_of(topic)) is not None:
            raise Forbidden(f"this topic is derived from {source!r}: publish there")
        with span("publish", {"messaging.system": "sluice", "messaging.destination.name": topic}, "producer"):
            await self._hub.wait_for_room(topic)
            for derived in self._derivations.below(topic):
                await self._hub.wait_for_room(derived)
            return await self._publisher.publish(topic, draft)

    def subscribe(
        self, topic: str, position: Position, send_now: SendNow | None = None
    ) -> AbstractAsyncContextManager[Subscription]:
        """send_now: see `Subscriber`. *Errors*: BadRequest; Overloaded, ShuttingDown, when it is entered."""
        return open_subscription(self._hub, self._store, check_topic(topic), position, send_now)

    def statistics(self) -> LiveStatistics:
        return LiveStatistics(self._publisher.statistics(), self._hub.statistics())


def compact(json: bytes) -> bytes:
    """``json`` without the whitespace between its parts, and else to the byte: an event is a line.

    *Errors*: BodyTooLarge, BadJson.
    """
    if len(json) > MAX_DATA:
        raise BodyTooLarge(f"an event has at most {MAX_DATA} bytes")
    well_formed(json)
    return msgspec.json.format(json, indent=-1)


@asynccontextmanager
async def open_live(
    database: Database, gate: DrainGate, settings: LiveSettings, make_steps: MakeSteps
) -> AsyncGenerator[Live]:
    """Topics, for as long as the block lasts. With the drain all subscriptions end.

    *Errors*: StartError where the steps of a derived topic are none.
    """
    store = Store(database)
    derivations = Derivations(_derived(settings, make_steps))
    async with open_lookup(store.heads) as heads, trio.open_nursery() as nursery:
        hub = Hub(store, heads, settings)
        upkeep = Upkeep(store, hub.settings_of)

        def published(name: str, events: Sequence[Event]) -> None:
            hub.published(name, events)
            upkeep.published(name, events)

        async def drain() -> None:
            await gate.wait_started()
            hub.drain()
            await trio.sleep(_LAST_WORDS_SECONDS)
            hub.cut()

        publisher = Publisher(store, derivations, published)
        for task in (publisher.run, hub.poll, hub.beat, upkeep.run, drain):
            nursery.start_soon(task)
        yield Live(hub, store, publisher, derivations)
        nursery.cancel_scope.cancel()


def _derived(settings: LiveSettings, make_steps: MakeSteps) -> dict[str, tuple[str, Derive]]:
    derived: dict[str, tuple[str, Derive]] = {}
    for name, topic in settings.topics.items():
        if topic.source is not None:
            try:
                derived[name] = (topic.source, make_steps(topic.steps))
            except ValueError as error:
                raise StartError(f"SLUICE_CONFIG: live.topics.{name}.steps: {error}") from error
    return derived
