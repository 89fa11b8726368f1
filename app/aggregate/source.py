"""A source: its calls, and what stands in for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from app.aggregate.breaker import Admission, Breaker, State
from app.aggregate.kept_values import KeptValues
from app.aggregate.latencies import Latencies
from app.aggregate.results import CANCELLED, TIMEOUT, Origin, Settled
from app.aggregate.retries import RetryBudget, backoff
from app.aggregate.upstream import Failure, Fields, Upstream
from app.config.aggregate import SourceSettings
from app.flow.histograms import Histogram
from app.flow.spans import span

_log = structlog.get_logger()

# A call that was given less than this share of its time says nothing of its upstream.
_FAIR_SHARE = 0.5


@dataclass(frozen=True)
class SourceStatistics:
    """breaker: None where it has none. calls: all that were made, retries and hedges among them. failures: of calls.

    hedges_won: second calls that were answered first. p50, p99: seconds of the last calls that were answered. times: of
    all calls, by outcome.
    """

    breaker: State | None
    calls: int
    failures: int
    retries: int
    hedges: int
    hedges_won: int
    p50: float | None
    p99: float | None
    times: Mapping[str, Histogram]


@dataclass(slots=True)
class Inquiry:
    """What is asked of a source, and how far that is. deadline: by Trio's clock. key: what its value is kept under."""

    target: str
    fields: Fields
    deadline: float
    began: float
    key: str
    attempts: int = 0


class Source:
    """One of a view's.

    view_deadline: seconds, for calls that have no limit of their own. jitter: from 0 to 1.

    *Cancellation*: closes the connections of the calls that are under way.
    """

    def __init__(
        self,
        settings: SourceSettings,
        view: str,
        view_deadline: float,
        upstream: Upstream,
        kept: KeptValues,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self._view = view
        self._timeout = min(settings.timeout or view_deadline, view_deadline)
        self._upstream = upstream
        self._kept = kept
        self._jitter = jitter
        self._breaker = None if settings.breaker is None else Breaker(settings.breaker)
        self._budget = RetryBudget()
        self._latencies = Latencies()
        self._times: dict[str, Histogram] = {}
        self._calls = self._failures = self._retries = self._hedges = self._hedges_won = 0

    async def ask(self, inquiry: Inquiry) -> Settled:
        """Returns by the inquiry's deadline, with what there is then."""
        with span("source", {"sluice.view": self._view, "sluice.source": self.name}) as asking:
            settled = await self._ask(inquiry)
            asking.say(sluice__attempts=settled.attempts, sluice__from=settled.origin)
            return settled

    async def _ask(self, inquiry: Inquiry) -> Settled:
        found = await self._with_retries(inquiry)
        if isinstance(found, Failure):
            if found.denies:
                self._kept.drop(inquiry.key)
            return self.otherwise(inquiry, found.reason)
        if self.settings.stale_if_error:
            self._kept.keep(inquiry.key, found, trio.current_time())
        return self._settled(inquiry, found, None)

    def otherwise(self, inquiry: Inquiry, reason: str) -> Settled:
        """What there is without a live value."""
        if reason != CANCELLED:
            stale = self._kept.find(inquiry.key, trio.current_time(), self.settings.stale_if_error)
            if stale is not None:
                return self._settled(inquiry, stale, reason, "stale")
            if self.settings.fallback is not None:
                return self._settled(inquiry, self.settings.fallback, reason, "fallback")
        return self._settled(inquiry, None, reason)

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(
            None if self._breaker is None else self._breaker.state(trio.current_time()),
            self._calls,
            self._failures,
            self._retries,
            self._hedges,
            self._hedges_won,
            self._latencies.percentile(0.5),
            self._latencies.percentile(0.99),
            self._times,
        )

    def _settled(self, inquiry: Inquiry, value: bytes | None, reason: str | None, origin: Origin = "live") -> Settled:
        ms = (trio.current_time() - inquiry.began) * 1000
        return Settled(self.name, self.settings.required, value, reason, ms, inquiry.attempts, origin)

    async def _with_retries(self, inquiry: Inquiry) -> bytes | Failure:
        self._budget.earn()
        found = await self._hedged(inquiry)
        for retry in range(1, self.settings.retries + 1):
            if not isinstance(found, Failure) or not found.may_pass:
                break
            wait, now = backoff(retry, self._jitter(), found.retry_after), trio.current_time()
            if now + wait >= inquiry.deadline or self._is_open(now) or not self._budget.spend():
                break
            await trio.sleep(wait)
            self._retries += 1
            found = await self._hedged(inquiry)
        return found

    def _is_open(self, now: float) -> bool:
        return self._breaker is not None and self._breaker.state(now) == "open"

    def _is_admitted(self) -> bool:
        return self._breaker is None or self._breaker.admits(trio.current_time())

    async def _hedged(self, inquiry: Inquiry) -> bytes | Failure:
        """A call; where it takes its time also a second one. The first value counts, and the other call is ended."""
        hedge_after = self.settings.hedge_after
        if hedge_after is None:
            return await self._call(inquiry)
        failures: list[Failure] = []
        won: list[tuple[bytes, bool]] = []
        over = trio.Event()

        async def one(*, is_hedge: bool) -> None:
            found = await self._call(inquiry)
            if isinstance(found, Failure):
                failures.append(found)
            elif not won:
                won.append((found, is_hedge))
                nursery.cancel_scope.cancel("hedge")
            over.set()

        async def first() -> None:
            await one(is_hedge=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            with trio.move_on_after(hedge_after):
                await over.wait()
            if not over.is_set() and self._is_admitted() and self._budget.spend():
                self._hedges += 1
                await one(is_hedge=True)
        if not won:
            return failures[-1]
        value, is_hedge = won[0]
        self._hedges_won += is_hedge
        return value

    async def _call(self, inquiry: Inquiry) -> bytes | Failure:
        """One call, if the breaker lets it, within its time."""
        began = trio.current_time()
        seconds = min(self._timeout, inquiry.deadline - began)
        if seconds <= 0:
            return Failure(TIMEOUT)
        admission = None if self._breaker is None else self._breaker.admit(began)
        if self._breaker is not None and admission is None:
            return Failure("breaker-open")
        inquiry.attempts += 1
        self._calls += 1
        found: bytes | Failure | None = None
        try:
            with trio.move_on_after(seconds):
                found = await self._upstream.call(inquiry.target, inquiry.fields)
            if found is None:
                found = Failure(TIMEOUT, seconds >= self._timeout * _FAIR_SHARE or None, may_pass=True)
            return found
        finally:
            self._note(found, admission, trio.current_time() - began)

    def _note(self, found: bytes | Failure | None, admission: Admission | None, seconds: float) -> None:
        """found: None where the call was ended from our side."""
        blames = None
        self._times.setdefault(_outcome_of(found), Histogram()).observe(seconds)
        if isinstance(found, Failure):
            self._failures += 1
            blames = found.blames
        elif found is not None:
            self._latencies.add(seconds)
            blames = False
        if self._breaker is None or admission is None:
            return
        now = trio.current_time()
        before = self._breaker.state(now)
        match blames:
            case True:
                self._breaker.failed(admission, now)
            case False:
                self._breaker.succeeded(admission)
            case None:
                self._breaker.abandoned(admission)
        if (state := self._breaker.state(now)) != before:
            reason = found.reason if isinstance(found, Failure) else None
            _log.warning("breaker", state=state, view=self._view, source=self.name, reason=reason)


def _outcome_of(found: bytes | Failure | None) -> str:
    """In a word. Bound: the reasons that there are, and the classes of status codes."""
    if found is None:
        return CANCELLED
    if not isinstance(found, Failure):
        return "ok"
    said, _, status = found.reason.partition(" ")
    return f"{status[:1]}xx" if said == "status" else found.reason
