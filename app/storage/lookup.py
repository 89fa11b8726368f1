"""Look-ups by key that arrive together share one query."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field

import trio

from app.errors import DatabaseUnavailable, SluiceError
from app.flow.request import current_request
from app.flow.spans import Span, current, run_within
from app.flow.waking import WOKEN

_MOST_KEYS = 256
_FLIGHTS = 2
# That a query waits for, of the event loop, once there is more than one caller.
_TURNS = 2
# In a row. Finding one bad key among the most takes nine; where everything is refused, no key is to blame.
_MOST_REFUSALS = 64

type FetchMany[V] = Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]


@asynccontextmanager
async def open_lookup[V](fetch_many: FetchMany[V]) -> AsyncGenerator[Lookup[V]]:
    """Look-ups that live as long as the block; ``fetch_many`` answers for many keys with one query."""
    async with trio.open_nursery() as nursery:
        yield Lookup(fetch_many, nursery)
        nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class LookupStatistics:
    """waiting: callers now. queries, keys: since the start; their ratio is how many look-ups share a query."""

    waiting: int
    queries: int
    keys: int


@dataclass
class _Batch[V]:
    """Keys that go into one query, and what came back for each."""

    refusals: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    callers: dict[trio.lowlevel.Task, None] = field(default_factory=dict[trio.lowlevel.Task, None])
    found: dict[str, V] = field(default_factory=dict[str, V])
    failed: dict[str, Exception] = field(default_factory=dict[str, Exception])
    keys: dict[str, None] = field(default_factory=dict[str, None])
    span: Span | None = None  # of the first caller who has one: the query is a part of that, and others only wait


class Lookup[V]:
    """Shares queries between the look-ups that wait at the same moment.

    A query starts when one of `_FLIGHTS` is free, and takes all keys that have arrived by then: alone, a look-up never
    waits for company; where there is some it waits for `_TURNS` more, so that under load the queries grow instead of
    the queue. A look-up never joins a query that has started, so that it sees every change that was committed before
    it asked.

    Bound: `_MOST_KEYS` keys a query, `_FLIGHTS` queries at once; those who wait are requests, bounded elsewhere.
    *Cancellation*: of one look-up leaves the others alone; the query is ended with the last that waits for it.
    *Errors*: a key that makes its query fail fails alone (the query is halved until it stands by itself, or
    `_MOST_REFUSALS` in a row say that it is not a matter of keys); what says
    nothing about a key, such as DatabaseUnavailable, is raised to all that waited for that query.
    """

    def __init__(self, fetch_many: FetchMany[V], nursery: trio.Nursery) -> None:
        self._fetch_many = fetch_many
        self._nursery = nursery
        self._pending: list[_Batch[V]] = []
        self._flying = 0
        self._waiting = 0
        self._queries = 0
        self._keys = 0

    async def get(self, key: str) -> V | None:
        """The value of ``key``, or None where there is none."""
        pending = self._pending
        batch = pending[0] if pending and key in pending[0].keys else self._join(key)
        task = trio.lowlevel.current_task()
        batch.callers[task] = None
        self._waiting += 1

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting -= 1
            del batch.callers[task]
            if not batch.callers:
                request = task.context.get(current_request)
                self._abandon(batch, None if request is None else request.being_cancelled_by)
            return trio.lowlevel.Abort.SUCCEEDED

        parent = current()
        if parent is None or batch.span is None:
            batch.span = batch.span or parent
            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            with parent.child("shared lookup"):
                await trio.lowlevel.wait_task_rescheduled(abort)
        if key in batch.failed:
            # Each caller raises an exception of its own: a shared one would collect the tracebacks of all.
            raise own_copy(batch.failed[key])
        return batch.found.get(key)

    def statistics(self) -> LookupStatistics:
        return LookupStatistics(self._waiting, self._queries, self._keys)

    def _join(self, key: str) -> _Batch[V]:
        for batch in self._pending:
            if key in batch.keys or len(batch.keys) < _MOST_KEYS:
                batch.keys[key] = None
                return batch
        batch = _Batch[V]()
        batch.keys[key] = None
        self._pending.append(batch)
        if self._flying < _FLIGHTS:
            self._flying += 1
            # In an empty context: what a query for many logs must not bear the request id of one of them.
            Context().run(self._nursery.start_soon, self._fly)
        return batch

    def _abandon(self, batch: _Batch[V], reason: str | None) -> None:
        if batch in self._pending:
            self._pending.remove(batch)
        batch.scope.cancel(reason)

    async def _fly(self) -> None:
        """Runs batches until none is pending."""
        try:
            while self._pending:
                if len(self._pending[0].callers) > 1:
                    for _ in range(_TURNS):  # whoever is about to be woken may join
                        await trio.lowlevel.checkpoint()
                if self._pending:
                    await self._answer(self._pending.pop(0))
        finally:
            self._flying -= 1

    async def _answer(self, batch: _Batch[V]) -> None:
        run_within(batch.span)
        with batch.scope:
            await self._fetch(batch, list(batch.keys))
        self._waiting -= len(batch.callers)
        for task in batch.callers:
            trio.lowlevel.reschedule(task, WOKEN)

    async def _fetch(self, batch: _Batch[V], keys: list[str]) -> None:
        self._queries += 1
        self._keys += len(keys)
        try:
            batch.found.update(await self._fetch_many(keys))
            batch.refusals = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to those who asked
            batch.refusals += 1
            if len(keys) == 1 or isinstance(error, DatabaseUnavailable) or batch.refusals > _MOST_REFUSALS:
                batch.failed.update(dict.fromkeys(keys, error))
                return
            middle = len(keys) // 2
            await self._fetch(batch, keys[:middle])
            await self._fetch(batch, keys[middle:])


def own_copy(error: Exception) -> Exception:
    """An exception of a caller's own for what failed for several at once."""
    if isinstance(error, SluiceError):
        own = type(error)(
            error.detail,
            retry_after=error.retry_after,
            headers=error.headers,
            members=error.members,
            internal=error.internal,
        )
    else:
        own = RuntimeError(f"the shared query failed: {error!r}")
    own.__cause__ = error
    return own
