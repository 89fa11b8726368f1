"""Views: several upstreams asked at once, as one answer."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from app.aggregate.flight import Flight
from app.aggregate.hosts import Hosts, HostStatistics
from app.aggregate.kept_values import KeptStatistics, KeptValues
from app.aggregate.network import MOST_LOOK_UPS
from app.aggregate.results import Settled, as_json, failure_of
from app.aggregate.source import Inquiry, Source, SourceStatistics
from app.aggregate.upstream import Fields, Upstream
from app.config.aggregate import AggregateSettings, SourceSettings, ViewSettings
from app.errors import SluiceError, UnknownView

# Of the time that is left, this much is kept for telling what there is.
_LAST_WORDS_SECONDS, _LAST_WORDS_SHARE = 0.05, 0.1

# Of a view's time, what calls must have left so that another request may share them.
_LEAST_SHARE = 0.5

type MakeUpstream = Callable[[SourceSettings, Hosts], Upstream]


@dataclass(frozen=True)
class AggregateStatistics:
    """sources: by view and name. requests: that wait for views; flights: of views, those that requests share once."""

    sources: Mapping[str, Mapping[str, SourceStatistics]]
    requests: int
    flights: int
    kept: KeptStatistics
    hosts: HostStatistics


@dataclass(frozen=True)
class Request:
    """parameters: of its query. fields: that are passed on to the upstreams. seconds: that are left for it."""

    view: str
    parameters: Mapping[str, str]
    fields: Fields
    seconds: float


@dataclass(frozen=True)
class Asked:
    """A view that is being asked for. until: when, by Trio's clock, what there is has to do."""

    view: str
    flight: Flight
    until: float

    def settling(self) -> AsyncGenerator[Settled]:
        """Each source as it settles."""
        return self.flight.settling(self.until)

    def failure(self, settled: Sequence[Settled]) -> SluiceError:
        """What the view is answered with, as the last of ``settled`` is missing."""
        return failure_of(self.view, self.flight.with_others(settled))


@dataclass(frozen=True)
class View:
    """One that may be asked for. parameters: those that its addresses need."""

    settings: ViewSettings
    sources: Sequence[Source]
    parameters: frozenset[str]


class Aggregate:
    """The views that there are. nursery: of the calls.

    Bound: a request has one call for each source, and those that follow from it, which `Source` and `Hosts` bound.
    """

    def __init__(self, views: Mapping[str, View], nursery: trio.Nursery, kept: KeptValues, hosts: Hosts) -> None:
        self._views = views
        self._nursery = nursery
        self._kept = kept
        self._hosts = hosts
        self._shared: dict[tuple[str, ...], Flight] = {}
        self._requests = self._flights = 0

    def parameters(self, view: str) -> frozenset[str]:
        """Those that it needs. *Errors*: UnknownView."""
        return self._view(view).parameters

    @asynccontextmanager
    async def ask(self, request: Request) -> AsyncGenerator[Asked]:
        """Asks all sources of a view, until the block ends. Where the view says so, requests that are the same share
        their calls: then these have the view's time, and the request id of the first.

        *Errors*: UnknownView; BadRequest where a parameter is missing. *Cancellation*: ends the calls, unless another
        request waits for them; they are over when this has ended.
        """
        view = self._view(request.view)
        targets = [source.settings.url.fill(request.parameters) for source in view.sources]
        until = trio.current_time() + min(view.settings.deadline, _without_last_words(request.seconds))
        key = (request.view, *targets)
        flight = self._shared.get(key)
        if flight is None or not flight.serves(until - view.settings.deadline * _LEAST_SHARE):
            flight = self._begin(view, key, request.fields, until)
        flight.waiting += 1
        self._requests += 1
        try:
            yield Asked(request.view, flight, until)
        finally:
            flight.waiting -= 1
            self._requests -= 1
            if not flight.waiting:
                self._flights -= 1
                if self._shared.get(key) is flight:
                    del self._shared[key]
                await flight.end()

    def _view(self, name: str) -> View:
        view = self._views.get(name)
        if view is None:
            raise UnknownView(f"there is no view {name!r}")
        return view

    def _begin(self, view: View, key: tuple[str, ...], fields: Fields, until: float) -> Flight:
        """Its calls are shared, if the view says so, from now on."""
        shared = view.settings.single_flight
        deadline = trio.current_time() + view.settings.deadline if shared else until
        flight = _flight(view, key[1:], fields, deadline)
        self._nursery.start_soon(flight.run)
        self._flights += 1
        if shared:
            self._shared[key] = flight
        return flight

    async def answer(self, request: Request) -> bytes:
        """All of a view, as JSON.

        *Errors*: as `ask`; UpstreamFailed and UpstreamTooLate as soon as a source fails that the view requires.
        """
        settled: list[Settled] = []
        async with self.ask(request) as asked, aclosing(asked.settling()) as settling:
            async for one in settling:
                settled.append(one)
                if one.is_missing:
                    raise asked.failure(settled)
            return as_json(asked.flight.with_others(settled))

    def statistics(self) -> AggregateStatistics:
        sources = {
            name: {source.name: source.statistics() for source in view.sources} for name, view in self._views.items()
        }
        return AggregateStatistics(
            sources, self._requests, self._flights, self._kept.statistics(), self._hosts.statistics()
        )


@asynccontextmanager
async def open_aggregate(
    settings: AggregateSettings, make: MakeUpstream | None = None, look_ups: int = MOST_LOOK_UPS
) -> AsyncGenerator[Aggregate]:
    """The views of ``settings``. make: an upstream of each source, instead of one that is called by name. look_ups: of
    names, at once for each source."""
    kept, hosts = KeptValues(), Hosts()
    tls = ssl.create_default_context() if settings.views else None
    make = make or partial(Upstream, tls=tls, look_ups=look_ups)
    upstreams: list[Upstream] = []
    views: dict[str, View] = {}
    for view in settings.views:
        sources: list[Source] = []
        for each in view.sources:
            upstreams.append(make(each, hosts))
            sources.append(Source(each, view.name, view.deadline, upstreams[-1], kept))
        parameters = frozenset(name for each in view.sources for name in each.url.names)
        views[view.name] = View(view, sources, parameters)
    try:
        async with trio.open_nursery() as nursery:
            yield Aggregate(views, nursery, kept, hosts)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # closing sockets takes no time
            for upstream in upstreams:
                await upstream.close()


def _without_last_words(seconds: float) -> float:
    return seconds - min(_LAST_WORDS_SECONDS, seconds * _LAST_WORDS_SHARE)


def _flight(view: View, targets: Sequence[str], fields: Fields, deadline: float) -> Flight:
    now = trio.current_time()
    inquiries = {
        source.name: Inquiry(target, fields, deadline, now, f"{view.settings.name} {source.name} {target}")
        for source, target in zip(view.sources, targets, strict=True)
    }
    return Flight(view.sources, inquiries, deadline)
