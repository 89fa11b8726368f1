"""One subscription: what its client missed, from the history, and then what comes, without loss or doubles between."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import trio

from app.flow.request import current_request
from app.live.events import BEFORE_ALL, Event, EventId, gap, parse_id
from app.live.hub import Hub
from app.live.store import Store
from app.live.topic import SET_BACK, Ended, SendNow, Subscriber, Topic

_PAGE_EVENTS = 64
# Until the poll has seen what is only in the database yet.
_PAUSE_SECONDS = 0.05

type Batch = Sequence[Event]
"""Events that leave together; none: a sign of life is due."""


@dataclass(frozen=True)
class Position:
    """Where a subscription begins: behind the event of the id ``after``, which is a client's word; else with the oldest
    event that is kept, or with the next one."""

    after: str | None = None
    beginning: bool = False


class Subscription:
    """batches: what is sent. position: the event that was the newest when it began with the next one. ended: why it
    came to its end, once it has."""

    def __init__(self, hub: Hub, store: Store, topic: Topic, position: Position, send_now: SendNow | None) -> None:
        self._hub, self._store, self._topic = hub, store, topic
        self._position = position
        self._send_now = send_now
        self._subscriber: Subscriber | None = None
        self.position: EventId | None = None
        if position.after is None and not position.beginning:
            self._subscriber = topic.attach(None, send_now)
            self.position = BEFORE_ALL if topic.epoch is None else EventId(topic.epoch, topic.last)

    @property
    def ended(self) -> Ended | None:
        return None if self._subscriber is None else self._subscriber.ended

    def close(self) -> None:
        if self._subscriber is not None:
            self._topic.detach(self._subscriber)

    async def batches(self) -> AsyncGenerator[Batch]:
        """*Errors*: those of the database, while the history is read."""
        if self._subscriber is None:
            async with aclosing(self._history()) as history:
                async for batch in history:
                    yield batch
        subscriber = self._subscriber
        if subscriber is None:
            return
        while True:
            batch = await subscriber.take()
            if not batch and subscriber.ended:
                return
            yield batch

    async def _history(self) -> AsyncGenerator[Batch]:
        """Page by page, as fast as the client takes them, until only what is to come is missing."""
        topic = self._topic
        given = self._position.after
        known = None if given is None else parse_id(given)
        from_start = known == BEFORE_ALL
        if from_start:
            known = None
        elif given is not None and not await self._is_ours(known):
            is_other = known is not None and known.epoch != topic.epoch
            reason = "another epoch" if is_other else "not an id of this topic"
            page = await self._store.read(topic.name, 0, 1)
            yield [gap(given[:64], page.events[0].id if page.events else None, reason)]
            known = None
        cursor = known
        set_back = topic.times_set_back
        while not self._hub.draining:
            if cursor is not None and set_back != topic.times_set_back:
                set_back = topic.times_set_back
                told = gap(str(cursor), None, SET_BACK)
                cursor = EventId(cursor.epoch, topic.last)  # before others may publish
                yield [told]
            if cursor is not None and cursor.epoch == topic.epoch and cursor.sequence >= topic.last:
                break
            # Up to there everything was in the database before we look.
            epoch, last = topic.epoch, topic.last
            page = await self._store.read(topic.name, 0 if cursor is None else cursor.sequence, _PAGE_EVENTS)
            if cursor is None and not page.events:
                if (topic.epoch, topic.last) == (epoch, last):
                    break
            elif cursor is None or page.epoch == cursor.epoch:
                yield [*_missing_before(page.events[0], BEFORE_ALL if from_start else cursor), *page.events]
                from_start = False
                cursor = page.events[-1].id
            elif page.events or not await self._is_ours(cursor):
                yield [gap(str(cursor), None, "another epoch")]
                cursor = None
            elif cursor.epoch == epoch and cursor.sequence < last:
                yield [gap(str(cursor), None, "behind the horizon")]
                cursor = EventId(cursor.epoch, last)
            else:
                await trio.sleep(_PAUSE_SECONDS)
        # In one step with the last look at what has been delivered.
        self._subscriber = topic.attach(cursor, self._send_now)

    async def _is_ours(self, id: EventId | None) -> bool:
        """Whether that event was, of the epoch that lasts."""
        if id is None:
            return False
        if id.epoch == self._topic.epoch and id.sequence <= self._topic.last:
            return True
        head = (await self._store.heads([self._topic.name])).get(self._topic.name)
        return head is not None and head.epoch == id.epoch and head.sequence >= id.sequence


def _missing_before(event: Event, cursor: EventId | None) -> list[Event]:
    if cursor is None or event.sequence == cursor.sequence + 1:
        return []
    return [gap(str(cursor), event.id, "behind the horizon")]


@asynccontextmanager
async def open_subscription(
    hub: Hub, store: Store, name: str, position: Position, send_now: SendNow | None = None
) -> AsyncGenerator[Subscription]:
    """send_now: see `Subscriber`.

    *Errors*: Overloaded, ShuttingDown; those of the database."""
    topic = await hub.enter(name)
    try:
        subscription = Subscription(hub, store, topic, position, send_now)
        with hub.cutting(current_request.get(None)):
            try:
                yield subscription
            finally:
                subscription.close()
    finally:
        hub.leave(topic)


@asynccontextmanager
async def batches_of(subscription: Subscription) -> AsyncGenerator[AsyncIterator[Batch]]:
    async with aclosing(subscription.batches()) as batches:
        yield batches
