"""Who subscribes, within this process, and how events get to them: those of this process and those of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog
import trio

from app.errors import Overloaded, ShuttingDown, SluiceError
from app.live.buffers import Buffer, key_of
from app.live.events import Event, EventId, gap
from app.live.horizon import Head
from app.live.store import Store
from app.live_config import LiveSettings, TopicSettings
from app.storage.lookup import Lookup

_log = structlog.get_logger()

# How often other processes' events are looked for: soon after some came, less so in silence. With the time that it
# takes, an event is here within 200 ms.
_LEAST_POLL_SECONDS = 0.02
_MOST_POLL_SECONDS = 0.1
_AWAY_SECONDS = 1.0
_TOPICS_A_QUERY = 200
_PAGE_EVENTS = 64
TAKEN_BYTES = 128 * 1024
"""About what a subscriber takes at once."""
BEAT_SECONDS = 15.0
_BEATS = 3

type Ended = Literal["shutdown", "slow"]


@dataclass(frozen=True)
class HubStatistics:
    """topics, subscribers: now. delivered: events since the start, of all subscribers together."""

    topics: int
    subscribers: int
    delivered: int


class Subscriber:
    """One that gets a topic's events as they come, and takes them when it can.

    Bound: that of its buffer, and the policy that goes with it. For one task.
    """

    def __init__(self, topic: Topic, after: EventId | None) -> None:
        settings = topic.settings
        key = None if settings.key is None else key_of(settings.key)
        self.buffer = Buffer(settings.policy, settings.buffer_events, settings.buffer_bytes, key)
        self.ended: Ended | None = None
        self._after = after
        self._topic = topic
        self._silent = 0
        self._beat = False
        self._task: trio.lowlevel.Task | None = None

    def offer(self, event: Event) -> bool:
        """Whether it may be offered more: all but for a full buffer that blocks."""
        if self._has_had(event.id):
            return True
        taken = self.buffer.put(event)
        if self.buffer.overflowed:
            self.end("slow")
        elif taken:
            self._wake()
        return taken or self.buffer.overflowed

    def _has_had(self, id: EventId | None) -> bool:
        """One that comes from elsewhere may know more than has been delivered here."""
        after = self._after
        return after is not None and id is not None and id.epoch == after.epoch and id.sequence <= after.sequence

    async def take(self) -> list[Event]:
        """What has come, once there is some; nothing after a silence, or at the end.

        *Cancellation*: harmless.
        """
        if not (len(self.buffer) or self._beat or self.ended):
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._beat, self._silent = False, 0
        taken = self.buffer.take(TAKEN_BYTES)
        self._topic.taken(len(taken))
        return taken

    def tick(self) -> None:
        """A part of the time between two signs of life has passed."""
        self._silent += 1
        if self._silent >= _BEATS:
            self._beat = True
            self._wake()

    def end(self, reason: Ended) -> None:
        """What is in its buffer is the last that it gets."""
        self.ended = self.ended or reason
        self._wake()

    def _wake(self) -> None:
        if (task := self._task) is not None:
            self._task = None
            trio.lowlevel.reschedule(task)


class Topic:
    """A topic that somebody of this process subscribes to, or is about to.

    epoch, last: the newest event that was delivered: what follows it, and only that, is delivered next; where
    something is missing in between, it is read from the database. blocked: a subscriber that must not lose anything
    has no room.
    """

    def __init__(self, name: str, settings: TopicSettings, head: Head | None, hub: Hub) -> None:
        self.name, self.settings = name, settings
        self.epoch = None if head is None else head.epoch
        self.last = 0 if head is None else head.sequence
        self.users = 0
        self.subscribers: dict[Subscriber, None] = {}
        self.blocked = False
        self.room = trio.Event()
        self._hub = hub

    def attach(self, after: EventId | None) -> Subscriber:
        subscriber = Subscriber(self, after)
        self.subscribers[subscriber] = None
        if self._hub.draining:
            subscriber.end("shutdown")
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        self.subscribers.pop(subscriber, None)
        self._make_room()

    def taken(self, count: int) -> None:
        self._hub.delivered += count
        if self.settings.policy == "block":
            self._make_room()

    @property
    def is_full(self) -> bool:
        """Whether a publisher has to wait."""
        probe = Event(None, "", b"")
        return self.blocked or any(not subscriber.buffer.has_room(probe) for subscriber in self.subscribers)

    def offer(self, events: Sequence[Event]) -> bool:
        """Delivers those of ``events``, in order and without holes, that follow; False where something is missing
        before them, or there is no room."""
        for event in events:
            id = event.id
            if id is None or (id.epoch == self.epoch and id.sequence <= self.last):
                continue
            if id.epoch != self.epoch or id.sequence != self.last + 1 or self.blocked:
                return False
            if not self._deliver(event):
                return False
            self.last = id.sequence
        return True

    def skip_to(self, event: Event) -> None:
        """What is before ``event`` is not to be had any more: everybody is told."""
        if event.id is None:
            return
        if self.epoch is not None:
            reason = "behind the horizon" if self.epoch == event.id.epoch else "another epoch"
            notice = gap(str(EventId(self.epoch, self.last)), event.id, reason)
            for subscriber in self.subscribers:
                subscriber.offer(notice)
        self.epoch, self.last = event.id.epoch, event.id.sequence - 1

    def _deliver(self, event: Event) -> bool:
        if self.settings.policy == "block" and not all(one.buffer.has_room(event) for one in self.subscribers):
            self.blocked = True
            return False
        for subscriber in self.subscribers:
            subscriber.offer(event)
        return True

    def _make_room(self) -> None:
        if self.blocked:
            self.blocked = False
            self._hub.wake()
        self.room.set()


class Hub:
    """Bound: ``settings.max_subscribers``, of all topics, and each topic's own; more are refused, none is put out."""

    def __init__(self, store: Store, heads: Lookup[Head], settings: LiveSettings) -> None:
        self.draining = False
        self.delivered = 0
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
            raise ShuttingDown("the server is shutting down", retry_after=1)
        if self._places >= self._settings.max_subscribers:
            raise Overloaded("there are as many subscribers as the server takes", retry_after=5)
        self._places += 1
        try:
            topic = self._topics.get(name) or await self._open(name)
            if topic.users >= topic.settings.max_subscribers:
                raise Overloaded("there are as many subscribers as the topic takes", retry_after=5)
        except BaseException:
            self._places -= 1
            raise
        topic.users += 1
        return topic

    async def _open(self, name: str) -> Topic:
        head = await self._heads.get(name)
        self.wake()
        return self._topics.setdefault(name, Topic(name, self.settings_of(name), head, self))

    def leave(self, topic: Topic) -> None:
        self._places -= 1
        topic.users -= 1
        if not topic.users and self._topics.get(topic.name) is topic:
            del self._topics[topic.name]

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
            for subscriber in topic.subscribers:
                subscriber.end("shutdown")
            topic.room.set()

    def wake(self) -> None:
        """There may be something in the database that is not here."""
        self._woken.set()

    def statistics(self) -> HubStatistics:
        return HubStatistics(len(self._topics), self._places, self.delivered)

    # -- what runs -----------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Gives signs of life to those to whom nothing comes, until it is cancelled."""
        while True:
            await trio.sleep(BEAT_SECONDS / _BEATS)
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
            heads = await self._store.heads(names[start : start + _TOPICS_A_QUERY])
            for name, head in heads.items():
                topic = self._topics.get(name)
                if topic is not None and (topic.epoch != head.epoch or topic.last < head.sequence):
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
