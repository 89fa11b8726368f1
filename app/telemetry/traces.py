"""Traces, by OpenTelemetry's SDK and its exporter (OTLP over HTTP). The only module that knows them, and imported only
where there is somewhere to send spans to: that takes a good part of a second.

Spans are ours (`app.flow.spans`), as the SDK's cost ten times as much. Its sampler decides, its batches carry them, and
they become its own in the thread that sends them.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import cast

import structlog
import trio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context

from app.errors import StartError
from app.flow.request import current_request
from app.flow.spans import Span, recording
from app.http.request_ids import Trace
from app.settings import TraceSettings
from app.telemetry.families import SPANS
from app.telemetry.metrics import Reading, metrics
from app.telemetry.span_exports import SpanExports, TraceStatistics, resource

_log = structlog.get_logger()

# What leaving may take for the last spans; less where none has got through lately.
_CLOSE_SECONDS = 2.0
_FAILING_CLOSE_SECONDS = 0.2
_MOST_WAITING = 2048
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_ANY_TRACE_ID = 1 << 64
# What the sampler that follows the caller, and for new traces takes a share, says of itself.
_FOLLOWING = re.compile(
    r"ParentBased\{root:(?P<root>AlwaysOnSampler|AlwaysOffSampler|TraceIdRatioBased\{(?P<rate>[^{}]+)\}),"
    r"remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
    r"localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler\}"
)


@asynccontextmanager
async def open_traces(settings: TraceSettings) -> AsyncGenerator[Traces]:
    """This process's spans leave for a collector, for as long as the block lasts.

    Bound: what `Traces` says. Leaving takes `_CLOSE_SECONDS` at most, however the collector behaves: what has not left
    by then is dropped. *Errors*: StartError, where a variable of OpenTelemetry's has a value that its SDK refuses.
    """
    traces = _make(settings.variables)
    try:
        async with metrics.reading(traces.measures):
            with recording(traces):
                yield traces
    finally:
        await traces.close()


def _make(variables: Mapping[str, str]) -> Traces:
    # The SDK reads the process's environment, and we a file beside it too.
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        provider = TracerProvider(shutdown_on_exit=False)
        most = int(variables.get("OTEL_BSP_MAX_QUEUE_SIZE", _MOST_WAITING))
        exports = SpanExports(resource(provider.resource))
        return Traces(provider.sampler, exports, BatchSpanProcessor(exports, max_queue_size=most), most)
    except (ValueError, TypeError, OSError) as error:
        raise StartError(f"OTEL_EXPORTER_OTLP_ENDPOINT: OpenTelemetry's SDK does not start: {error}") from error


class Traces:
    """`app.flow.spans.Recorder`, which hands spans over to a thread that sends them.

    Bound: ``most`` spans wait or are on their way; what comes then is dropped, and counted.
    """

    def __init__(self, sampler: Sampler, exports: SpanExports, processor: BatchSpanProcessor, most: int) -> None:
        self._sampler = sampler
        self._bound = share_of(sampler)
        self._exports = exports
        self._processor = processor
        self._most = most
        self._put = self._refused = self._left_out = 0
        self._closed = False

    # -- what records ----------------------------------------------------------------------------------------------

    def put(self, span: Span) -> None:
        if self._closed or self._waiting >= self._most:
            self._refused += 1
        else:
            self._put += 1
            self._processor.on_end(cast("ReadableSpan", _Ended(span)))

    def samples(self, trace_id: int, continued: Trace | None) -> bool:
        if self._bound is None:
            return self._asks_sampler(trace_id, continued)
        return trace_id % _ANY_TRACE_ID < self._bound if continued is None else continued.is_sampled

    def _asks_sampler(self, trace_id: int, continued: Trace | None) -> bool:
        context = None
        if continued is not None:
            flags = _SAMPLED if continued.is_sampled else _NOT_SAMPLED
            parent = SpanContext(trace_id, int(continued.parent_id, 16), is_remote=True, trace_flags=flags)
            context = set_span_in_context(NonRecordingSpan(parent))
        return self._sampler.should_sample(context, trace_id, "HTTP", SpanKind.SERVER, {}).decision.is_sampled()

    def canceller(self, error: BaseException) -> str | None:
        cancelled = _cancelled(error)
        if cancelled is None:
            return None
        if cancelled.source == "explicit" and cancelled.reason is not None:  # ours; others' may tell anything
            return cancelled.reason
        if cancelled.source == "deadline":
            return "deadline"
        request = current_request.get(None)
        return (None if request is None else request.being_cancelled_by) or cancelled.source

    def leave_out(self) -> None:
        self._left_out += 1

    # -- what becomes of them --------------------------------------------------------------------------------------

    @property
    def _waiting(self) -> int:
        return self._put - self._exports.exported - self._exports.lost

    def statistics(self) -> TraceStatistics:
        waiting = self._waiting
        return TraceStatistics(
            exported=self._exports.exported,
            waiting=0 if self._closed else waiting,
            dropped=self._refused + self._exports.lost + (waiting if self._closed else 0),
            left_out=self._left_out,
        )

    def measures(self) -> Iterable[Reading]:
        state = self.statistics()
        yield SPANS, ("exported",), state.exported
        yield SPANS, ("dropped",), state.dropped
        yield SPANS, ("left_out",), state.left_out

    async def close(self) -> None:
        """Sends what waits, as far as there is time for it. *Cancellation*: shielded."""
        seconds = _FAILING_CLOSE_SECONDS if self._exports.failing else _CLOSE_SECONDS
        with trio.move_on_after(seconds, shield=True):
            # Left behind where it hangs: none of its threads keeps the process from ending.
            await trio.to_thread.run_sync(self._processor.shutdown, abandon_on_cancel=True, limiter=_one_thread())
        self._exports.shutdown()
        self._closed = True
        if dropped := self.statistics().dropped:
            _log.warning("spans were dropped", spans=dropped)


class _Ended:
    """A span as the SDK's batches want it: they look at nothing but whether it is sampled."""

    __slots__ = ("span",)

    context = SpanContext(1, 1, is_remote=False, trace_flags=_SAMPLED)

    def __init__(self, span: Span) -> None:
        self.span = span


def share_of(sampler: Sampler) -> int | None:
    """Of 2⁶⁴ new traces, how many ``sampler`` takes, where it else follows the caller; None for any other sampler.

    So a request that is not sampled costs a comparison, and not all that the sampler wants to be told."""
    match = _FOLLOWING.fullmatch(sampler.get_description())
    if match is None:
        return None
    if match["rate"] is not None:
        return TraceIdRatioBased.get_bound_for_rate(float(match["rate"]))
    return _ANY_TRACE_ID if match["root"] == "AlwaysOnSampler" else 0


def _cancelled(error: BaseException) -> trio.Cancelled | None:
    """The first cancellation of ``error``, where that is nothing else."""
    if isinstance(error, BaseExceptionGroup):
        found, others = cast("BaseExceptionGroup[BaseException]", error).split(trio.Cancelled)
        return None if found is None or others is not None else _cancelled(found.exceptions[0])
    return error if isinstance(error, trio.Cancelled) else None


def _one_thread() -> trio.CapacityLimiter:
    return trio.CapacityLimiter(1)
