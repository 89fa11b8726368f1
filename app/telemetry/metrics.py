"""What this process counts: its requests here, as they end; the rest is read where it is counted, when it is asked for.

For the event loop's thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter

import trio

from app.errors import SluiceError
from app.flow.channels import bytes_held
from app.flow.drain import DrainGate
from app.flow.histograms import SECONDS, Histogram
from app.flow.threads import ThreadPool, pools
from app.telemetry import families as f
from app.telemetry.lag import LoopLag
from app.telemetry.outcomes import EndedRequest, outcome_of
from app.telemetry.snapshots import Distribution, Exemplar, Snapshot, Value, add

UNMATCHED = "unmatched"
"""The route of what is at none."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"))
# Of combinations of method, route, status and outcome; past it, only the outcome is told.
_MOST_SERIES = 2000

_MILLISECONDS = tuple(seconds * 1000 for seconds in SECONDS)
_kind = attrgetter("method", "route", "status", "outcome")
_ms, _first_byte_ms = attrgetter("ms"), attrgetter("first_byte_ms")
_bytes, _bytes_in, _sampled = attrgetter("bytes"), attrgetter("bytes_in"), attrgetter("sampled")

type Reading = tuple[f.Family, tuple[str, ...], float | Histogram | Distribution]
type Source = Callable[[], Iterable[Reading]]


class _Series:
    """Requests of one method and route that ended in one way."""

    __slots__ = ("duration", "exemplars", "first_byte", "sent", "taken")

    def __init__(self) -> None:
        self.duration = Histogram(_MILLISECONDS)
        self.first_byte = Histogram(_MILLISECONDS)
        self.sent = self.taken = 0
        self.exemplars: dict[int, Exemplar] = {}

    def add(self, requests: Sequence[EndedRequest]) -> None:
        """(Without a step of Python's own for each.)"""
        self.duration.observe_all(map(_ms, requests))
        self.first_byte.observe_all([ms for ms in map(_first_byte_ms, requests) if ms is not None])
        self.sent += sum(map(_bytes, requests))
        self.taken += sum(map(_bytes_in, requests))
        if any(map(_sampled, requests)):
            self._exemplify(requests)

    def _exemplify(self, requests: Iterable[EndedRequest]) -> None:
        for one in requests:
            if one.sampled and one.trace_id is not None:
                exemplar = Exemplar(one.trace_id, one.ms / 1000, one.timestamp.timestamp())
                self.exemplars[self.duration.bucket_of(one.ms)] = exemplar


class Requests:
    """Requests that ended. Bound: `_MOST_SERIES`.

    settle: called before it is read: those that have ended and are not counted yet now are.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int | None, str], _Series] = {}
        self._refused: Counter[tuple[int, str]] = Counter()
        self._lock = threading.Lock()
        self.settle: Callable[[], None] = lambda: None

    def count(self, requests: Sequence[EndedRequest]) -> None:
        """So many more; also from another thread."""
        with self._lock:
            kinds = Counter(map(_kind, requests))
            for kind in kinds:
                alike = requests if len(kinds) == 1 else [one for one in requests if _kind(one) == kind]
                (self._series.get(kind) or self._new(*kind)).add(alike)

    def refused(self, error: SluiceError) -> None:
        """One more that did not get to the application, and of which nothing else is known."""
        self._refused[error.status, outcome_of(error.status, error)] += 1

    def _new(self, method: str, route: str, status: int | None, outcome: str) -> _Series:
        key = (method if method in _METHODS else f.OTHER, route, status, outcome)
        if key not in self._series and len(self._series) >= _MOST_SERIES:
            key = (f.OTHER, f.OTHER, None, outcome)
        return self._series.setdefault(key, _Series())

    def add_to(self, snapshot: Snapshot) -> None:
        self.settle()
        with self._lock:
            self._add_to(snapshot)

    def _add_to(self, snapshot: Snapshot) -> None:
        for (method, route, status, outcome), series in self._series.items():
            where = (method, route)
            duration = _in_seconds(series.duration)
            duration.exemplars = series.exemplars.copy()
            add(snapshot, f.REQUESTS, (*where, str(status or "none"), outcome), float(sum(duration.counts)))
            add(snapshot, f.DURATION, where, duration)
            add(snapshot, f.FIRST_BYTE, where, _in_seconds(series.first_byte))
            add(snapshot, f.RESPONSE_BYTES, where, float(series.sent))
            add(snapshot, f.REQUEST_BYTES, where, float(series.taken))
        for (status, outcome), count in self._refused.items():
            add(snapshot, f.REQUESTS, (f.OTHER, UNMATCHED, str(status), outcome), float(count))


class Metrics:
    """The process's. sources: who else counts."""

    def __init__(self) -> None:
        self.requests = Requests()
        self._sources: dict[Source, None] = {}

    def read(self, source: Source) -> None:
        """Asks ``source`` too, from now on; it must not block or raise."""
        self._sources[source] = None

    @asynccontextmanager
    async def reading(self, *sources: Source) -> AsyncGenerator[None]:
        """Likewise, for as long as the block lasts."""
        for source in sources:
            self.read(source)
        try:
            yield
        finally:
            for source in sources:
                del self._sources[source]

    def snapshot(self) -> Snapshot:
        """What there is now; but for what has to be asked of the operating system."""
        snapshot: Snapshot = {}
        self.requests.add_to(snapshot)
        for source in (_of_the_loop, _of_threads, *self._sources):
            for family, labels, value in source():
                add(snapshot, family, labels, _told(value))
        return snapshot


def _told(value: float | Histogram | Distribution) -> Value:
    if isinstance(value, Histogram):
        return Distribution(value.counts.copy(), value.total)
    # A bool would do here, and not among siblings, whom it is written to.
    return value if isinstance(value, Distribution) else float(value)


def _in_seconds(milliseconds: Histogram) -> Distribution:
    return Distribution(milliseconds.counts.copy(), milliseconds.total / 1000)


def requests_measures(gate: DrainGate, jobs: Callable[[], int]) -> Iterable[Reading]:
    """jobs: how many of those that the gate knows are none."""
    yield f.IN_FLIGHT, (), max(0, gate.statistics().running - jobs())


def lag_measures(lag: LoopLag) -> Iterable[Reading]:
    measured = lag.statistics()
    yield f.LOOP_LAG, (), Distribution(list(measured.counts), measured.total_seconds)


def _of_the_loop() -> Iterable[Reading]:
    yield f.TASKS, (), trio.lowlevel.current_statistics().tasks_living
    yield f.CHANNEL_BYTES, (), bytes_held()


def _of_threads() -> Iterable[Reading]:
    busy: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for pool in pools():
        yield from _of_pool(pool)
        state = pool.statistics()
        busy[state.name] += state.busy
        size[state.name] += state.size
    io = trio.to_thread.current_default_thread_limiter().statistics()
    yield f.THREADS, ("trio", "busy"), io.borrowed_tokens
    yield f.THREADS, ("trio", "free"), io.total_tokens - io.borrowed_tokens
    yield f.THREADS_WAITING, ("trio",), io.tasks_waiting
    yield f.THREAD_UTILISATION, ("trio",), io.borrowed_tokens / io.total_tokens
    for name, most in size.items():
        yield f.THREAD_UTILISATION, (name,), busy[name] / most


def _of_pool(pool: ThreadPool) -> Iterable[Reading]:
    state = pool.statistics()
    yield f.THREADS, (state.name, "busy"), state.busy
    yield f.THREADS, (state.name, "free"), state.size - state.busy
    yield f.THREADS_WAITING, (state.name,), state.waiting
    yield f.THREAD_WAIT, (state.name,), pool.waits


metrics = Metrics()
"""This process's."""
