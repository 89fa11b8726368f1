"""A collector of spans: OTLP over HTTP, in protobuf, as OpenTelemetry's exporter speaks it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.proto.trace.v1.trace_pb2 import Status

# A test that takes longer hangs.
_SECONDS = 30
_KINDS = {
    Encoded.SPAN_KIND_INTERNAL: "internal",
    Encoded.SPAN_KIND_SERVER: "server",
    Encoded.SPAN_KIND_CLIENT: "client",
    Encoded.SPAN_KIND_PRODUCER: "producer",
}


@dataclass(frozen=True)
class Given:
    """A span as it came. Ids in hexadecimal; times in seconds."""

    trace_id: str
    state: str
    id: str
    parent: str
    name: str
    kind: str
    began: float
    ended: float
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.attributes.get(name)


@dataclass
class Collector:
    """requests: the fields of each request. status: of its answers; 0: there is none until `close`."""

    url: str
    status: int = 200
    spans: list[Given] = field(default_factory=list[Given])
    requests: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    closed: threading.Event = field(default_factory=threading.Event)
    _came: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes, fields: dict[str, str]) -> None:
        with self._came:
            self.requests.append(fields)
            if self.status == 200:
                self.spans += _decoded(body)
            self._came.notify_all()

    def wait(self, met: Callable[[Given], bool], count: int = 1) -> list[Given]:
        """The spans of which that is true, once there are so many."""
        deadline = time.monotonic() + _SECONDS
        with self._came:
            while len(found := [span for span in self.spans if met(span)]) < count:
                assert self._came.wait(deadline - time.monotonic()), f"{len(found)} of {as_text(self.spans)}"
        return found

    def wait_requests(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.requests) >= count, _SECONDS)

    def request(self, **attributes: Any) -> Given:
        """The first span of a request of which that is said; ``__`` in names is a dot."""
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        return self.wait(lambda one: one.kind == "server" and wanted.items() <= one.attributes.items())[0]

    def trace(self, of: Given) -> list[Given]:
        with self._came:
            return sorted((one for one in self.spans if one.trace_id == of.trace_id), key=lambda one: one.began)


@contextmanager
def collector() -> Generator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.take(body, {name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
            if not taken.status:
                taken.closed.wait(_SECONDS)
                return
            self.send_response(taken.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever leaves in the middle is no matter."""

    with Server(("127.0.0.1", 0), Handler) as server:
        taken = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield taken
        finally:
            taken.closed.set()
            server.shutdown()
            thread.join()


def variables(url: str, **more: str) -> dict[str, str]:
    """For a server that sends its spans there, soon."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "20"} | more


def as_text(spans: Iterable[Given]) -> str:
    """Trees of spans, those of a parent in order."""
    spans = sorted(spans, key=lambda one: one.began)
    ids = {one.id for one in spans}
    lines: list[str] = []

    def tell(one: Given, depth: int) -> None:
        said = " ".join(f"{name}={value}" for name, value in one.attributes.items())
        mark = " !" if one.is_error else ""
        ms = 1000 * (one.ended - one.began)
        lines.append(f"{'  ' * depth}{one.name} [{one.kind}] {ms:.2f} ms{mark} {said}")
        for other in spans:
            if other.parent == one.id and other.trace_id == one.trace_id:
                tell(other, depth + 1)

    for one in spans:
        if one.parent not in ids:
            tell(one, 0)
    return "\n".join(lines)


def _decoded(body: bytes) -> list[Given]:
    decoded = ExportTraceServiceRequest.FromString(body)
    return [
        Given(
            trace_id=span.trace_id.hex(),
            state=span.trace_state,
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            name=span.name,
            kind=_KINDS[span.kind],
            began=span.start_time_unix_nano / 1e9,
            ended=span.end_time_unix_nano / 1e9,
            is_error=span.status.code == Status.STATUS_CODE_ERROR,
            attributes=_values(span.attributes),
            resource=_values(resource.resource.attributes),
        )
        for resource in decoded.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
