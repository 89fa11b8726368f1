"""Who subscribes, within this process, and how events get to them: those of this process and those of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
import trio

from app.config.live import LiveSettings, TopicSettings
from app.errors import Overloaded, ShuttingDown, SluiceError
from app.flow.request import RequestScope
from app.live.events import Event, EventId
from app.live.horizon import Head
from app.live.store import Store
from app.live.topic import BEATS, Topic
from app.storage.lookup import Lookup
from app.telemetry.families import OTHER

_log = structlog.get_logger()

# How often other processes' events are looked for: soon after some came, less so in silence. With the time that it
# takes, an event is here within 200 ms.
_LEAST_POLL_SECONDS = 0.02
_MOST_POLL_SECONDS = 0.1
_AWAY_SECONDS = 1.0
_TOPICS_A_QUERY = 200
_PAGE_EVENTS = 64
BEAT_SECONDS = 15.0


@dataclass(frozen=True)
class HubStatistics:
    """topics, subscribers: now. delivered: events since the start, of all subscribers together. dropped: likewise, by
    topic and policy. by_topic: subscribers. Topics that are not configured are together there, as `OTHER`."""

    topics: int
    subscribers: int
    delivered: int
    dropped: Mapping[tuple[str, str], int]
    by_topic: Mapping[str, int]


class Hub:
    """Bound: ``settings.max_subscribers``, of all topics, and each topic's own; more are refused, none is put out."""

    def __init__(self, store: Store, heads: Lookup[Head], settings: LiveSettings) -> None:
        self.draining = False
        self._requests: dict[RequestScope, None] = {}
        self._delivered = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._store = store
        self._heads = heads
        self._settings = settings
        self._topics: dict[str, Topic] = {}
        self._places = 0
        self._woken = trio.Event()

    def settings_of(self, name: str) -> TopicSettings:
        return self._settings.topics.get(name, self._settings.defaults)

    # -- coming and going ----------------------------------------------------------------------------------------------

    async def enter(self, name: str) -> Topic:
        """The topic, until `leave`. *Errors*: Overloaded, ShuttingDown; those of the database."""
        if self.draining:
            raise _shutting_down()
        if self._places >= self._settings.max_subscribers:
            raise Overloaded("there are as many subscribers as the server takes", retry_after=5)
        self._places += 1
        try:
            topic = self._topics.get(name) or await self._open(name)
            if self.draining:
                raise _shutting_down()
            if topic.users >= topic.settings.max_subscribers:
                raise Overloaded("there are as many subscribers as the topic takes", retry_after=5)
        except BaseException:
            self._places -= 1
            raise
        topic.users += 1
        return topic

    async def _open(self, name: str) -> Topic:
        head = await self._heads.get(name)
        if self.draining:  # nobody will enter, nor leave
            raise _shutting_down()
        self.wake()
        return self._topics.setdefault(name, Topic(name, self.settings_of(name), head, self.wake))

    def leave(self, topic: Topic) -> None:
        self._places -= 1
        topic.users -= 1
        if not topic.users and self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
            self._delivered += topic.delivered
            self._dropped[self._told_as(topic.name), topic.settings.policy] += topic.dropped

    async def wait_for_room(self, name: str) -> None:
        """Returns when no subscriber of this process holds publishers up."""
        while (topic := self._topics.get(name)) is not None and topic.settings.policy == "block" and topic.is_full:
            if topic.room.is_set():
                topic.room = trio.Event()
            await topic.room.wait()

    def published(self, name: str, events: Sequence[Event]) -> None:
        """Of this process, just now."""
        topic = self._topics.get(name)
        if topic is not None and not topic.offer(events):
            self.wake()

    def drain(self) -> None:
        """Everybody is told to come again, and nobody new is taken."""
        self.draining = True
        for topic in self._topics.values():
            topic.drain()

    @contextmanager
    def cutting(self, request: RequestScope | None) -> Generator[None]:
        """Of a subscriber, for as long as it is one."""
        if request is None:
            yield
            return
        self._requests[request] = None
        try:
            yield
        finally:
            del self._requests[request]

    def cut(self) -> None:
        """Ends those who have not taken what they were told: a drain does not wait for who does not read."""
        for request in self._requests:
            request.cancel("shutdown")

    def wake(self) -> None:
        """There may be something in the database that is not here."""
        self._woken.set()

    def statistics(self) -> HubStatistics:
        delivered, dropped = self._delivered, self._dropped.copy()
        by_topic: Counter[str] = Counter(dict.fromkeys((*self._settings.topics, OTHER), 0))
        for topic in self._topics.values():
            name = self._told_as(topic.name)
            delivered += topic.delivered
            dropped[name, topic.settings.policy] += topic.dropped
            by_topic[name] += topic.users
        return HubStatistics(len(self._topics), self._places, delivered, dropped, by_topic)

    def _told_as(self, topic: str) -> str:
        return topic if topic in self._settings.topics else OTHER

    # -- what runs -----------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Gives signs of life to those to whom nothing comes, until it is cancelled."""
        while True:
            await trio.sleep(BEAT_SECONDS / BEATS)
            for topic in list(self._topics.values()):
                for subscriber in topic.subscribers:
                    subscriber.tick()

    async def poll(self) -> None:
        """Fetches what other processes publish, while there are subscribers, until it is cancelled."""
        pace, away = _MOST_POLL_SECONDS, False
        while True:
            with trio.move_on_after(pace if self._topics else float("inf")):
                await self._woken.wait()
            self._woken = trio.Event()
            try:
                came = await self._look()
            except SluiceError as error:
                if not away:
                    _log.warning("events of others cannot be fetched", reason=error.internal or error.detail)
                away = True
                await trio.sleep(_AWAY_SECONDS)
                continue
            away = False
            pace = _LEAST_POLL_SECONDS if came else min(1.5 * pace, _MOST_POLL_SECONDS)

    async def _look(self) -> bool:
        """Whether anything came."""
        came = False
        names = sorted(self._topics)
        for start in range(0, len(names), _TOPICS_A_QUERY):
            # What has been delivered by then is committed, so that the database knows of it.
            asked = [name for name in names[start : start + _TOPICS_A_QUERY] if name in self._topics]
            known = {name: self._topics[name].last for name in asked}
            heads: Mapping[str, Head] = await self._store.heads(asked) if asked else {}
            for name, head in heads.items():
                topic = self._topics.get(name)
                if topic is None:
                    continue
                if head.epoch == topic.epoch and head.sequence < known[name] <= topic.last:
                    topic.set_back(head.sequence)
                    came = True
                elif topic.epoch != head.epoch or topic.last < head.sequence:
                    came = await self._catch_up(topic) or came
        return came

    async def _catch_up(self, topic: Topic) -> bool:
        came = False
        while not topic.blocked and self._topics.get(topic.name) is topic:
            last, epoch = topic.last, topic.epoch
            page = await self._store.read(topic.name, last, _PAGE_EVENTS)
            if page.epoch is None or page.epoch != epoch:
                return await self._change_epoch(topic) or came
            if (topic.last, topic.epoch) == (last, epoch) and page.events[0].sequence > last + 1:
                topic.skip_to(page.events[0])
            topic.offer(page.events)
            came = True
            if len(page.events) < _PAGE_EVENTS:
                break
        return came

    async def _change_epoch(self, topic: Topic) -> bool:
        """Where there is nothing behind what is known, or that is of another epoch."""
        head = (await self._store.heads([topic.name])).get(topic.name)
        if head is None or (head.epoch == topic.epoch and head.sequence <= topic.last):
            return False
        page = await self._store.read(topic.name, 0, 1)
        if not page.events:  # published, and forgotten already
            missed = Event(EventId(head.epoch, head.sequence + 1), "", b"")
            topic.skip_to(missed)
        elif topic.epoch != page.epoch or page.events[0].sequence > topic.last + 1:
            topic.skip_to(page.events[0])
        self.wake()
        return True


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down", retry_after=1)
