"""Spans on their way to a collector: which are taken, what is said of them, and what becomes of those that are not."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import sampling
from opentelemetry.sdk.trace.sampling import ParentBased, ParentBasedTraceIdRatio, Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from structlog.testing import LogCapture

import app.telemetry.span_exports
import app.telemetry.traces
from app.errors import StartError
from app.flow.request import RequestScope, current_request
from app.flow.spans import Span, begin_trace, run_within, span
from app.http.request_ids import Trace, continue_trace
from app.settings import load_settings
from app.telemetry.metrics import metrics
from app.telemetry.snapshots import Distribution
from app.telemetry.traces import Traces, open_traces, share_of
from tests.otlp import Collector, collector, variables

# The sampler's decision is what is asked for there.
_OTHERS = [TraceIdRatioBased(0.5), sampling.ALWAYS_ON, ParentBased(sampling.ALWAYS_ON, sampling.ALWAYS_OFF)]


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that this process is told of."""
    with collector() as collected:
        for name, value in variables(collected.url).items():
            monkeypatch.setenv(name, value)
        yield collected


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> LogCapture:
    captured = LogCapture()
    for module in (app.telemetry.traces, app.telemetry.span_exports):
        monkeypatch.setattr(module, "_log", structlog.wrap_logger(None, processors=[captured]))
    return captured


@asynccontextmanager
async def tracing() -> AsyncGenerator[Traces]:
    """By the variables of this process."""
    async with open_traces(load_settings().traces) as traces:
        yield traces


def record(count: int = 1, parent: bytes | None = None) -> Span:
    """A request with so many parts."""
    _, root = begin_trace(continue_trace(parent))
    assert root is not None
    root.name = "GET /thing"
    run_within(root)
    for number in range(count):
        with span("part", {"number": number}):
            pass
    run_within(None)
    root.end()
    return root


# -- what a collector gets ---------------------------------------------------------------------------------------------


async def test_spans_arrive_as_they_were_told(collected: Collector) -> None:
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with tracing() as traces:
        root = record(2, parent)
    assert (traces.statistics().exported, traces.statistics().dropped, traces.statistics().waiting) == (3, 0, 0)
    first, second, request = collected.spans
    assert (request.name, request.kind, request.parent) == ("GET /thing", "server", "b7ad6b7169203331")
    assert request.id == f"{root.id:016x}"
    assert {one.trace_id for one in collected.spans} == {"0af7651916cd43dd8448eb211c80319c"}
    assert [(one.name, one.kind, one.parent, one["number"]) for one in (first, second)] == [
        ("part", "internal", request.id, 0),
        ("part", "internal", request.id, 1),
    ]
    assert request.began <= first.began <= first.ended <= second.began <= request.ended
    assert collected.requests[0]["path"] == "/v1/traces"
    assert request.resource["service.name"] == "sluice"


async def test_standard_variables_are_heard(collected: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "reports")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    async with tracing():
        record()
    (resource,) = {tuple(sorted(one.resource.items())) for one in collected.spans}
    said = dict(resource)
    assert (said["service.name"], said["deployment.environment.name"], said["service.version"]) == (
        "reports",
        "test",
        "7",
    )
    assert collected.requests[0]["x-token"] == "secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
)
def test_it_can_be_turned_off(collected: Collector, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert load_settings().traces.on
    monkeypatch.setenv(name, value)
    assert not load_settings().traces.on


def test_what_is_not_spoken_is_told(collected: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(StartError) as raised:
        load_settings()
    assert raised.value.lines == ("OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not allowed: http/protobuf",)


async def test_a_value_that_the_sdk_refuses_stops_the_start(
    collected: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(StartError, match="OpenTelemetry's SDK does not start"):
        async with tracing():
            pass


# -- which requests are sampled ----------------------------------------------------------------------------------------


def decides(sampler: Sampler, trace_id: int, continued: Trace | None) -> bool:
    """What the sampler itself says."""
    context = None
    if continued is not None:
        flags = TraceFlags(int(continued.is_sampled))
        parent = SpanContext(trace_id, int(continued.parent_id, 16), is_remote=True, trace_flags=flags)
        context = set_span_in_context(NonRecordingSpan(parent))
    return sampler.should_sample(context, trace_id, "x").decision.is_sampled()


rates = st.one_of(st.sampled_from([0.0, 1.0, 0.1, 1e-9]), st.floats(0, 1))
samplers = st.one_of(
    rates.map(ParentBasedTraceIdRatio),
    st.sampled_from([sampling.DEFAULT_ON, sampling.DEFAULT_OFF, *_OTHERS]),
)
continuations = st.sampled_from([None, "00", "01"])


@given(sampler=samplers, trace_id=st.integers(1, 2**128 - 1), flags=continuations)
@settings(max_examples=200, deadline=None)
def test_a_request_is_sampled_as_the_sampler_would_have_it(sampler: Sampler, trace_id: int, flags: str | None) -> None:
    traces = Traces(sampler, None, None, 1)  # type: ignore[arg-type]
    continued = None if flags is None else Trace(f"00-{trace_id:032x}-00f067aa0ba902b7-{flags}", "b7ad6b7169203331")
    assert traces.samples(trace_id, continued) is decides(sampler, trace_id, continued)


def test_the_usual_samplers_need_not_be_asked_and_others_are() -> None:
    assert share_of(ParentBasedTraceIdRatio(0.1)) == TraceIdRatioBased(0.1).bound
    assert share_of(sampling.DEFAULT_ON) == 2**64
    assert share_of(sampling.DEFAULT_OFF) == 0
    assert [share_of(sampler) for sampler in _OTHERS] == [None] * len(_OTHERS)


async def test_a_share_is_taken_and_callers_are_followed(collected: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    random.seed(1)
    async with tracing():
        taken = [begin_trace(None)[1] is not None for _ in range(4000)]
        assert 900 < sum(taken) < 1100
        for flags, sampled in ((b"01", True), (b"00", False)):
            continued = continue_trace(b"00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-" + flags)
            assert (begin_trace(continued)[1] is not None) is sampled


# -- a collector that is away, or slow ---------------------------------------------------------------------------------


async def test_what_waits_is_bounded_and_the_rest_is_counted(
    collected: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    collected.status = 0
    async with tracing() as traces:
        for _ in range(20):
            record()
        assert traces.statistics().dropped == 32
        assert traces.statistics().waiting == 8
        collected.status = 200
        collected.closed.set()
    assert traces.statistics().exported + traces.statistics().dropped == 40


async def test_one_that_hangs_does_not_hold_the_end(
    collected: Collector, monkeypatch: pytest.MonkeyPatch, log: LogCapture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "25")
    collected.status = 0
    before = trio.current_time()
    async with tracing() as traces:
        record(3)
        await trio.to_thread.run_sync(collected.wait_requests, 1)
    assert trio.current_time() - before < 25  # that the exporter would give it
    assert traces.statistics().dropped == 4
    assert [line["event"] for line in log.entries] == ["spans were dropped"]


async def test_one_that_is_away_is_told_once_and_when_it_is_back(
    collected: Collector, monkeypatch: pytest.MonkeyPatch, log: LogCapture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    collected.status = 400
    sdk: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sdk.append(record)

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        async with tracing() as traces:
            for attempt in (1, 2, 3):
                record()
                await trio.to_thread.run_sync(collected.wait_requests, attempt)
                while traces.statistics().waiting:  # noqa: ASYNC110 - its thread tells nobody
                    await trio.sleep(0.005)
            assert (traces.statistics().dropped, traces.statistics().exported) == (6, 0)
            collected.status = 200
            record()
    finally:
        logging.getLogger().removeHandler(handler)
    assert traces.statistics().exported == 2
    assert [line["event"] for line in log.entries] == [
        "spans are not taken",
        "spans are taken again",
        "spans were dropped",
    ]
    assert "400" in log.entries[0]["reason"]
    assert not [record for record in sdk if record.name.startswith(("opentelemetry", "urllib3"))]


async def test_one_that_is_not_there_costs_its_spans_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, log: LogCapture
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    for name, value in variables(url, OTEL_EXPORTER_OTLP_TIMEOUT="1").items():
        monkeypatch.setenv(name, value)
    async with tracing() as traces:
        record(2)
        while traces.statistics().waiting:  # noqa: ASYNC110 - its thread tells nobody
            await trio.sleep(0.005)
        record(1)
    assert (traces.statistics().dropped, traces.statistics().exported) == (5, 0)
    assert [line["event"] for line in log.entries] == ["spans are not taken", "spans were dropped"]


async def test_metrics_tell_what_became_of_them(collected: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"):
        monkeypatch.setenv(name, "8")
    collected.status = 0

    def told() -> dict[str, float]:
        samples = metrics.snapshot().get("sluice_spans_total", {})
        return {outcome: value for (outcome,), value in samples.items() if not isinstance(value, Distribution)}

    async with tracing() as traces:
        assert told() == {"exported": 0, "dropped": 0, "left_out": 0}
        for _ in range(5):
            record()
        assert told()["dropped"] == 2
        collected.status = 200
        collected.closed.set()
        record(300)
        assert told()["left_out"] == 45
        while traces.statistics().waiting:  # noqa: ASYNC110 - its thread tells nobody
            await trio.sleep(0.005)
        assert told()["exported"] + told()["dropped"] == 10 + 256
    assert told() == {}


async def test_an_exporter_of_another_version_encodes_them_itself(
    collected: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tracing():
        record(2)
    ours = list(collected.spans)

    def none(_exporter: object) -> None:
        return None

    monkeypatch.setattr(app.telemetry.span_exports, "_sender", none)
    async with tracing() as traces:
        record(2)
    theirs = collected.spans[len(ours) :]
    assert traces.statistics().exported == 3
    assert [(one.name, one.kind, one.attributes, one.resource.keys()) for one in theirs] == [
        (one.name, one.kind, one.attributes, one.resource.keys()) for one in ours
    ]
    assert theirs[0].parent == theirs[2].id


# -- who cancelled -----------------------------------------------------------------------------------------------------


async def test_who_cancelled_is_told_by_the_reason_or_by_the_request(collected: Collector) -> None:
    async with tracing() as traces:
        found: list[str | None] = []

        async def wait() -> None:
            try:
                await trio.sleep_forever()
            except BaseException as error:
                found.append(traces.canceller(error))
                raise

        with trio.move_on_after(0):
            await wait()
        request = RequestScope("x")
        token = current_request.set(request)
        with request.scope:
            request.cancel("shutdown")
            async with trio.open_nursery() as nursery:  # the reason of the outer one is not this one's own
                nursery.cancel_scope.cancel()
                await wait()
        current_request.reset(token)
        with trio.CancelScope() as scope:
            scope.cancel()
            await wait()
        assert traces.canceller(ExceptionGroup("", [ValueError()])) is None
    assert found[0] == "deadline"
    assert found[1] == "shutdown"
    assert found[2] == "explicit"
