"""All sources of a view at once, and those who wait for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

import trio

from app.aggregate.results import CANCELLED, TIMEOUT, Settled
from app.aggregate.source import Inquiry, Source
from app.flow.request import current_request


class Flight:
    """The calls of one view, from the moment it is begun.

    inquiries: by the name of the source. deadline: theirs. waiting: requests that want to know.

    *Cancellation*: of `run`: ends all calls. Of who waits: harmless.
    """

    def __init__(self, sources: Sequence[Source], inquiries: Mapping[str, Inquiry], deadline: float) -> None:
        self._sources = sources
        self._inquiries = inquiries
        self._deadline = deadline
        self._settled: list[Settled] = []
        self._news = trio.Event()
        self._error: Exception | None = None
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self.waiting = 0

    def serves(self, until: float) -> bool:
        """Whether there still is something to wait for, and its calls have time until then."""
        is_settled = self._error is not None or len(self._settled) == len(self._sources)
        return not is_settled and self._deadline >= until

    async def run(self) -> None:
        """Returns when all is settled. What goes wrong is raised to each who waits, and not here."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for source in self._sources:
                        nursery.start_soon(self._ask, source)
        except Exception as error:  # noqa: BLE001 - who waits raises it
            self._error = error
            self._tell()
        finally:
            self._over.set()

    async def end(self) -> None:
        """Ends all calls that are under way, and returns when they are over."""
        request = current_request.get(None)
        self._scope.cancel((None if request is None else request.being_cancelled_by) or "answered")
        with trio.CancelScope(shield=True):
            await self._over.wait()

    async def settling(self, until: float) -> AsyncGenerator[Settled]:
        """Each source as it settles, by ``until`` (of Trio's clock) all of them: those that are not done are late."""
        told: set[str] = set()
        while len(told) < len(self._sources):
            if self._error is not None:
                raise self._error
            news = self._news
            for one in self._settled[len(told) :]:
                told.add(one.source)
                yield one
            if news is not self._news or len(told) == len(self._sources):
                continue
            with trio.move_on_at(until) as scope:
                await news.wait()
            if scope.cancelled_caught:
                for one in self._others(told, TIMEOUT):
                    yield one
                return

    def with_others(self, settled: Sequence[Settled]) -> list[Settled]:
        """``settled``, and of the others what there is, or that nobody waits any more; in the order of the sources."""
        told = {one.source: one for one in (*self._settled, *settled)}
        told |= {one.source: one for one in self._others(set(told), CANCELLED)}
        return [told[source.name] for source in self._sources]

    def _others(self, told: set[str], reason: str) -> list[Settled]:
        others = [source for source in self._sources if source.name not in told]
        return [source.otherwise(self._inquiries[source.name], reason) for source in others]

    async def _ask(self, source: Source) -> None:
        self._settled.append(await source.ask(self._inquiries[source.name]))
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
