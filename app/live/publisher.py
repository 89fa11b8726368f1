"""Publishing: what arrives together shares a transaction."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
import trio

from app.errors import DatabaseUnavailable, SluiceError
from app.flow.spans import Span, current, run_within
from app.flow.waking import WOKEN
from app.live.derivations import Derivations
from app.live.events import Draft, Event, EventId
from app.live.store import Store
from app.storage.lookup import own_copy

_log = structlog.get_logger()

_MOST_EVENTS = 500
_MOST_BYTES = 4 * 1024 * 1024
# That a transaction waits for, of the event loop, once there is more than one publisher.
_TURNS = 2
# A database that does not answer holds up all publishers, also those who would leave.
_WRITE_SECONDS = 10.0


@dataclass(eq=False)
class _Publication:
    topic: str
    draft: Draft
    task: trio.lowlevel.Task
    span: Span | None
    taken: bool = False
    id: EventId | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class PublisherStatistics:
    """waiting: publishers now. transactions, published: since the start, without derived events."""

    waiting: int
    transactions: int
    published: int


class Publisher:
    """One transaction at a time, of what has come by then, to whatever topics.

    Bound: `_MOST_EVENTS` and about `_MOST_BYTES` a transaction; who waits is a request, or a WebSocket, and bounded
    elsewhere.

    published: is called, at once after the commit, with each topic's new events.
    """

    def __init__(
        self, store: Store, derivations: Derivations, published: Callable[[str, Sequence[Event]], object]
    ) -> None:
        self._store = store
        self._derivations = derivations
        self._tell = published
        self._queue: deque[_Publication] = deque()
        self._came = trio.Event()
        self._transactions = self._published = 0

    async def publish(self, topic: str, draft: Draft) -> EventId:
        """The id of the event, which is committed then.

        *Cancellation*: it is not published if its transaction has not begun; else its end is waited for, for
        `_WRITE_SECONDS` at most, so that it is known what was done. *Errors*: those of the database; where the
        connection broke during the commit, it may have been published.
        """
        publication = _Publication(topic, draft, trio.lowlevel.current_task(), current())
        self._queue.append(publication)
        self._came.set()

        def abort(_: object) -> trio.lowlevel.Abort:
            if publication.taken:
                return trio.lowlevel.Abort.FAILED
            self._queue.remove(publication)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if publication.id is None:
            raise own_copy(publication.error or RuntimeError("no answer"))
        return publication.id

    def statistics(self) -> PublisherStatistics:
        return PublisherStatistics(len(self._queue), self._transactions, self._published)

    async def run(self) -> None:
        """Publishes, until it is cancelled."""
        while True:
            await self._came.wait()
            for _ in range(_TURNS):  # whoever is about to publish may join
                await trio.lowlevel.checkpoint()
            batch = self._take()
            if batch:  # whose statements are told with the first of them that is traced
                run_within(next((one.span for one in batch if one.span is not None), None))
                await self._write(batch)
            if not self._queue:
                self._came = trio.Event()

    def _take(self) -> list[_Publication]:
        batch: list[_Publication] = []
        size = 0
        while self._queue and len(batch) < _MOST_EVENTS and size < _MOST_BYTES:
            publication = self._queue.popleft()
            publication.taken = True
            batch.append(publication)
            size += len(publication.draft.data)
        return batch

    async def _write(self, batch: Sequence[_Publication]) -> None:
        drafts: dict[str, list[Draft]] = {}
        places: list[tuple[_Publication, int]] = []
        error: Exception = DatabaseUnavailable("the database does not answer", retry_after=1, internal="publishing")
        try:
            for publication in batch:
                places.append((publication, len(drafts.setdefault(publication.topic, []))))
                drafts[publication.topic].append(publication.draft)
                for derived, draft in self._derivations.all_of(publication.topic, publication.draft):
                    drafts.setdefault(derived, []).append(draft)
            with trio.move_on_after(_WRITE_SECONDS):
                appended = await self._store.append(drafts, time.time())
                self._transactions += 1
                self._published += len(batch)
                for publication, place in places:
                    publication.id = appended[publication.topic][place].id
                self._tell_all(appended)
        except SluiceError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - whatever it is, it goes to those who publish
            _log.exception("events not published")
            error = raised
        finally:
            for publication in batch:
                publication.error = None if publication.id is not None else error
                trio.lowlevel.reschedule(publication.task, WOKEN)

    def _tell_all(self, appended: Mapping[str, Sequence[Event]]) -> None:
        """What fails here is no failure of those who have published: it is committed."""
        for name, events in appended.items():
            try:
                self._tell(name, events)
            except Exception:  # noqa: BLE001 - whatever it is, the poll finds them in the database
                _log.exception("events not delivered", topic=name)
