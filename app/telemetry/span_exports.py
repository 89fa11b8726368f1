"""Spans on their way to a collector: what OpenTelemetry's thread does with them, and what becomes of that."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from app import __version__
from app.flow.spans import Kind, Span, Tree
from app.telemetry.otlp import encode_batch

_log = structlog.get_logger()

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("sluice", __version__)
_FAILED, _UNSET = Status(StatusCode.ERROR), Status()
_KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
}
_MOST_REASON = 300


@dataclass(frozen=True)
class TraceStatistics:
    """Spans of this process, since the start. waiting: now, to be sent. dropped: as too many waited, or the collector
    did not take them. left_out: that were not made, as their request had too many."""

    exported: int
    waiting: int
    dropped: int
    left_out: int


class SpanExports(SpanExporter):
    """Our spans, one in each of the SDK's, through its exporter; and what becomes of them. Most of it is called in
    the SDK's thread.

    exported: spans that were taken; lost: those that were not. failing: whether the last were not. The log says so
    when it begins and when it ends, and what else the SDK has to say of it goes nowhere.
    """

    def __init__(self, resource: Resource) -> None:
        self._exporter = OTLPSpanExporter()
        self._resource = resource
        self._send = _sender(self._exporter)
        self._said = _encoded(resource)
        self._last_words = _LastWords()
        self.exported = self.lost = 0
        self.failing = False
        self._stopped = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._export([ended.span for ended in cast("Sequence[Any]", spans)])
        finally:
            taken = result is SpanExportResult.SUCCESS
            if taken:
                self.exported += len(spans)
            else:
                self.lost += len(spans)
            self._tell(failing=not taken)
        return result

    def _export(self, spans: Sequence[Span]) -> SpanExportResult:
        if self._send is None:
            return self._exporter.export([readable(span, self._resource) for span in spans])
        sent = self._send(encode_batch(*self._said, spans)).success
        return SpanExportResult.SUCCESS if sent else SpanExportResult.FAILURE

    def _tell(self, *, failing: bool) -> None:
        if failing and not self.failing:
            _log.warning("spans are not taken", reason=self._last_words.text)
        elif self.failing and not failing:
            _log.info("spans are taken again")
        self.failing = failing

    def shutdown(self) -> None:
        """Nothing is sent any more; a try that is under way is not repeated. Harmless the second time."""
        if not self._stopped:
            self._stopped = True
            self._exporter.shutdown()
            self._last_words.close()


def _sender(exporter: OTLPSpanExporter) -> Callable[[bytes], Any] | None:
    """What the exporter itself sends by, tries included, what is encoded; None where it is of another version, and has
    to encode it itself."""
    send = getattr(getattr(exporter, "_client", None), "export", None)
    return send if callable(send) else None


def _encoded(resource: Resource) -> tuple[bytes, bytes]:
    """``resource``, and who speaks for it, as the SDK has them."""
    span = Span(Tree(1, cast("Any", None)), "", None, "internal", {})
    (told,) = encode_spans([readable(span, resource)]).resource_spans
    return told.resource.SerializeToString(), told.scope_spans[0].scope.SerializeToString()


class _LastWords(logging.Handler):
    """What the SDK logs. It does so at every try; the last of it may be told as a reason."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._logger = logging.getLogger("opentelemetry")
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()[:_MOST_REASON]

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True
        super().close()


def resource(given: Resource) -> Resource:
    """Who we are: ``given``, by the variables, and what they do not say."""
    own: dict[str, str | int] = {
        "service.name": "sluice",
        "service.version": __version__,
        "process.pid": os.getpid(),
    }
    said = {
        name: value
        for name, value in given.attributes.items()
        if not (name == "service.name" and str(value).startswith("unknown_service"))
    }
    return Resource({**own, **said}, given.schema_url)


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """``span`` as the SDK has it."""
    trace_id, state = span.tree.trace_id, TraceState.from_header([span.tree.state.decode("latin-1")])
    parent = None
    if span.parent is not None:
        parent = SpanContext(trace_id, span.parent, is_remote=span.kind == "server", trace_flags=_SAMPLED)
    return ReadableSpan(
        name=span.name,
        context=SpanContext(trace_id, span.id, is_remote=False, trace_flags=_SAMPLED, trace_state=state),
        parent=parent,
        resource=resource,
        attributes=span.attributes,
        kind=_KINDS[span.kind],
        status=_FAILED if span.is_error else _UNSET,
        start_time=span.began,
        end_time=span.ended,
        instrumentation_scope=_SCOPE,
    )
