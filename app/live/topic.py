"""A topic within this process: its subscribers, and the order in which events get to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import trio

from app.config.live import TopicSettings
from app.flow.waking import WOKEN
from app.live.buffers import Buffer
from app.live.events import BEFORE_ALL, Burst, Event, EventId, gap
from app.live.horizon import Head

BEATS = 3
"""Parts of the time between two signs of life: see `Subscriber.tick`."""
_TAKEN_BYTES = 128 * 1024
# Sent at once, to one that waits; so much may be left of it.
_MOST_NOW_BYTES = 64 * 1024

SET_BACK = "the database was set back"

type Ended = Literal["shutdown", "slow"]
type SendNow = Callable[[Burst], bool]


class Subscriber:
    """One that gets a topic's events as they come, and takes them when it can.

    Bound: that of its buffer, and the policy that goes with it. For one task.

    send_now: sends events to it at once, while it waits for one; False where it has to go on with that itself.
    """

    def __init__(self, topic: Topic, after: EventId | None, send_now: SendNow | None) -> None:
        settings = topic.settings
        self.buffer = Buffer(settings.policy, settings.buffer_events, settings.buffer_bytes, settings.key)
        self.ended: Ended | None = None
        self._after = after
        self._topic = topic
        self._send_now = send_now
        self._silent = 0
        self._beat = False
        self._task: trio.lowlevel.Task | None = None

    def offer(self, burst: Burst) -> None:
        # While it waits for events, its buffer is empty, and nothing is on its way.
        now = self._send_now if self._task is not None and self._after is None else None
        if now is None or len(burst.sse) > _MOST_NOW_BYTES:
            for event in burst.events:
                self._put(event)
            return
        self._silent = 0
        self._topic.delivered += len(burst.events)
        if not now(burst):
            self._beat = True  # the rest goes with what is sent next
            self._wake()

    def _put(self, event: Event) -> None:
        if self._after is not None and self._has_had(event.id):
            return
        if event.id is not None:
            self._after = None
        if self.buffer.put(event):
            self._wake()
        elif self.buffer.overflowed:
            self.end("slow")

    def forget_after(self) -> None:
        """What it had of this epoch says nothing about what comes."""
        self._after = None

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
        taken = self.buffer.take(_TAKEN_BYTES)
        self._topic.taken(len(taken))
        return taken

    def tick(self) -> None:
        """A part of the time between two signs of life has passed."""
        self._silent += 1
        if self._silent >= BEATS:
            self._beat = True
            self._wake()

    def end(self, reason: Ended) -> None:
        """What is in its buffer is the last that it gets."""
        self.ended = self.ended or reason
        self._wake()

    def _wake(self) -> None:
        if (task := self._task) is not None:
            self._task = None
            trio.lowlevel.reschedule(task, WOKEN)


class Topic:
    """A topic that somebody of this process subscribes to, or is about to.

    epoch, last: the newest event that was delivered: what follows it, and only that, is delivered next; where
    something is missing in between, it is read from the database. blocked: a subscriber that must not lose anything
    has no room. room: is set when there may be some again. users: subscribers, and those who are about to be.
    delivered: events, to all of them together.

    wake: is called when there may be something in the database that can be delivered now.
    """

    def __init__(self, name: str, settings: TopicSettings, head: Head | None, wake: Callable[[], object]) -> None:
        self.name, self.settings = name, settings
        self.epoch = None if head is None else head.epoch
        self.last = 0 if head is None else head.sequence
        self.users = self.delivered = self.times_set_back = 0
        self._dropped = 0
        self.subscribers: dict[Subscriber, None] = {}
        self.blocked = self.draining = False
        self.room = trio.Event()
        self._wake = wake

    def attach(self, after: EventId | None, send_now: SendNow | None) -> Subscriber:
        subscriber = Subscriber(self, after, send_now)
        self.subscribers[subscriber] = None
        if self.draining:
            subscriber.end("shutdown")
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        if subscriber in self.subscribers:
            del self.subscribers[subscriber]
            self._dropped += subscriber.buffer.dropped
        self._make_room()

    @property
    def dropped(self) -> int:
        """Events that some subscriber did not get, since the start."""
        return self._dropped + sum(subscriber.buffer.dropped for subscriber in self.subscribers)

    def taken(self, count: int) -> None:
        self.delivered += count
        if self.settings.policy == "block":
            self._make_room()

    @property
    def is_full(self) -> bool:
        """Whether a publisher has to wait."""
        probe = Event(EventId("", 0), "", b"")
        return self.blocked or any(not subscriber.buffer.has_room(probe) for subscriber in self.subscribers)

    def offer(self, events: Sequence[Event]) -> bool:
        """Delivers those of ``events``, in order and without holes, that follow; False where something is missing
        before them, or there is no room."""
        # One by one, where each may be the last for which there is room.
        parts = [[event] for event in events] if self.settings.policy == "block" else [events]
        return all(self._offer(part) for part in parts)

    def _offer(self, events: Sequence[Event]) -> bool:
        following: list[Event] = []
        for event in events:
            id = event.id
            if id is None or (id.epoch == self.epoch and id.sequence <= self.last):
                continue
            if id.epoch != self.epoch or id.sequence != self.last + 1 or not self._has_room(event):
                break
            self.last = id.sequence
            following.append(event)
        else:
            self._deliver(following)
            return True
        self._deliver(following)
        return False

    def skip_to(self, event: Event) -> None:
        """What is before ``event`` is not to be had any more: everybody is told."""
        if event.id is None:
            return
        if self.epoch is not None:
            reason = "behind the horizon" if self.epoch == event.id.epoch else "another epoch"
            notice = gap(str(EventId(self.epoch, self.last)), event.id, reason)
            self._deliver([notice])
        elif event.id.sequence > 1:  # nobody had published to it when they came
            self._deliver([gap(str(BEFORE_ALL), event.id, "behind the horizon")])
        self.epoch, self.last = event.id.epoch, event.id.sequence - 1

    def set_back(self, sequence: int) -> None:
        """The database is an earlier one of the same epoch, whose newest event that is: what follows has ids that
        others had before."""
        if self.epoch is None:
            return
        self._deliver([gap(str(EventId(self.epoch, self.last)), None, SET_BACK)])
        for subscriber in self.subscribers:
            subscriber.forget_after()
        self.last = sequence
        self.times_set_back += 1

    def drain(self) -> None:
        """Whoever subscribes is told to come again."""
        self.draining = True
        for subscriber in self.subscribers:
            subscriber.end("shutdown")
        self.room.set()

    def _has_room(self, event: Event) -> bool:
        if self.settings.policy == "block" and not all(one.buffer.has_room(event) for one in self.subscribers):
            self.blocked = True
        return not self.blocked

    def _deliver(self, events: Sequence[Event]) -> None:
        burst = Burst(events)
        for subscriber in list(self.subscribers) if events else ():
            subscriber.offer(burst)

    def _make_room(self) -> None:
        if self.blocked:
            self.blocked = False
            self._wake()
        self.room.set()
