"""Traces of servers as they run: whole trees over processes and servers, how requests end, and collectors that are
not there."""

from __future__ import annotations

import shutil
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.faults.computing import PROCESS, Mark, call, error_of, held, post
from tests.faults.traffic import RawClient, wait_until
from tests.otlp import Collector, Given, as_text, collector, variables
from tests.processes import HYPERCORN, SERVE, SluiceProcess, run, running

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@dataclass
class Forwarder:
    """An upstream that has its answer from a task of the server ``port``, and passes on the trace that it was given."""

    url: str
    port: int = 0


@contextmanager
def forwarder() -> Generator[Forwarder]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = call("parts", count=2)
            fields = {
                "Content-Type": "application/json",
                "traceparent": self.headers["traceparent"],
                "tracestate": self.headers.get("tracestate", ""),
            }
            found = httpx.post(f"http://127.0.0.1:{told.port}{PROCESS}", content=body, headers=fields)
            self.send_response(found.status_code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(found.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told = Forwarder(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def traced(folder: Path, url: str, command: list[str] = SERVE, *, upstream: str = "", workers: int = 1, **more: str):
    """A server with one compute worker, and room for one call that waits; its spans go to ``url``."""
    view = f'[aggregate.v.sources.up]\nurl = "{upstream}/x?secret=1"\nallow_private = true\n' if upstream else ""
    (folder / "traced.toml").write_text(f'[tasks]\nmodules = ["tests.compute.behaving"]\n{view}')
    own = {"SLUICE_CONFIG": "traced.toml", "SLUICE_COMPUTE_WORKERS": "1", "SLUICE_COMPUTE_QUEUE": "1"}
    given = own | {"SLUICE_TASK_GRACE": "300ms", "PYTHONPATH": str(Path(__file__).parents[2])} | variables(url) | more
    with running(folder, command, workers=workers, **given) as server:
        yield server


@pytest.fixture(scope="module")
def collected() -> Iterator[Collector]:
    with collector() as collected:
        yield collected


@pytest.fixture(scope="module")
def upstream() -> Iterator[Forwarder]:
    with forwarder() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def folder(embedded_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(embedded_template, tmp_path_factory.mktemp("traced") / "data"))


@pytest.fixture(scope="module")
def server(folder: Path, collected: Collector, upstream: Forwarder) -> Iterator[SluiceProcess]:
    with traced(folder, collected.url, upstream=upstream.url) as server:
        upstream.port = server.port
        yield server


def only(spans: list[Given], name: str) -> Given:
    (found,) = [one for one in spans if one.name == name]
    return found


# -- one request -------------------------------------------------------------------------------------------------------


def test_a_request_through_an_upstream_and_a_worker_is_one_tree(server: SluiceProcess, collected: Collector) -> None:
    answer = httpx.get(f"{server.url}/api/aggregate/v", headers={"traceparent": TRACEPARENT, "tracestate": "a=1"})
    assert answer.json()["complete"]
    assert answer.json()["sources"]["up"]["value"] == {"result": False}  # no worker has OpenTelemetry loaded
    first = collected.request(http__route="/api/aggregate/{view}")
    spans = collected.trace(first)
    told = as_text(spans)
    by_id = {one.id: one for one in spans}
    assert len(by_id) == len(spans), told
    assert (first.trace_id, first.parent, first.name) == (TRACE, PARENT, "GET /api/aggregate/{view}"), told
    assert {one.state for one in spans} == {"a=1"}, told
    assert answer.headers["traceparent"] == f"00-{TRACE}-{first.id}-01"
    chain = [only(spans, "task run")]
    while (parent := chain[-1].parent) != PARENT:
        chain.append(by_id[parent])
    assert [(one.name, one.kind) for one in reversed(chain)] == [
        ("GET /api/aggregate/{view}", "server"),
        ("source", "internal"),
        ("GET", "client"),
        ("POST /api/process", "server"),
        ("compute", "internal"),
        ("task run", "internal"),
    ], told
    for inner, outer in pairwise(chain):
        assert outer.began <= inner.began <= inner.ended <= outer.ended, told
    run, compute, _, client, *_ = chain
    assert run["process.pid"] != server.pid
    assert only(spans, "queue wait").parent == compute.id
    assert (client["http.request.method"], client["http.response.status_code"]) == ("GET", 200)
    assert client["url.full"].endswith("/x")
    parts = [one for one in spans if one.name == "part"]
    assert [(one["number"], one.parent) for one in parts] == [(0, run.id), (1, run.id)]
    assert [one.parent for one in spans if one.name == "within"] == [one.id for one in parts]
    assert not any(one.is_error for one in spans), told
    paths = {"/api/aggregate/v", "/api/process"}
    wait_until(
        lambda: paths == {one["path"] for one in server.events("request") if one["trace_id"] == TRACE}, "the lines"
    )


def test_a_request_says_what_it_was_by_the_conventions(server: SluiceProcess, collected: Collector) -> None:
    httpx.get(f"{server.url}/api/report/test-user", headers={"X-Request-Id": "said"})
    request = collected.request(sluice__request_id="said")
    assert request.parent == ""
    assert request.attributes == {
        "http.request.method": "GET",
        "http.route": "/api/report/{user_id}",
        "url.path": "/api/report/test-user",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "http.response.status_code": 200,
        "sluice.request_id": "said",
        "sluice.outcome": "ok",
    }
    spans = collected.trace(request)
    (query,) = [one for one in spans if one["db.system.name"]]
    assert (query.name, query.kind, query["db.system.name"]) == ("SELECT", "client", "sqlite")
    assert "test-user" not in query["db.query.text"]
    assert "?" in query["db.query.text"]


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("GET", "/nothing/here", "GET", 404),
        ("GET", "/api/jobs/none", "GET /api/jobs/{job_id}", 404),
        ("DELETE", "/api/process", "DELETE", 405),
        ("PATCH", "/", "PATCH", 405),
    ],
)
def test_what_a_client_does_wrong_is_no_error(
    method: str, path: str, name: str, status: int, server: SluiceProcess, collected: Collector
) -> None:
    id = f"{method}-{status}-{len(path)}"
    httpx.request(method, server.url + path, headers={"X-Request-Id": id})
    request = collected.request(sluice__request_id=id)
    assert (request.name, request["http.response.status_code"]) == (name, status)
    assert (request.is_error, request["error.type"], request["sluice.outcome"]) == (False, None, "client_error")


def test_a_publication_and_what_it_writes_are_told(server: SluiceProcess, collected: Collector) -> None:
    httpx.post(f"{server.url}/api/live/news", json={}, headers={"X-Request-Id": "news"})
    spans = collected.trace(collected.request(sluice__request_id="news"))
    publish = only(spans, "publish")
    assert (publish.kind, publish["messaging.destination.name"]) == ("producer", "news")
    assert "INSERT" in {one.name for one in spans if one.parent == publish.id}


def test_the_stages_of_a_pipeline_are_told(server: SluiceProcess, collected: Collector) -> None:
    path = "/api/transform?step=upper&step=gzip"
    httpx.post(f"{server.url}{path}", content=b"hello", headers={"X-Request-Id": "stages"})
    request = collected.request(sluice__request_id="stages")
    stages = [one for one in collected.trace(request) if one.name == "stage"]
    assert sorted(one["sluice.place"] for one in stages) == ["loop", "thread"]
    assert {one.parent for one in stages} == {request.id}


def test_a_job_goes_on_in_the_trace_of_its_request(server: SluiceProcess, collected: Collector) -> None:
    url = f"{server.url}{PROCESS}"
    httpx.post(url, json={"task": "echo", "args": {"value": 1}}, headers={"Prefer": "respond-async"})
    job = collected.wait(lambda one: one.name == "job")[0]
    spans = collected.trace(job)
    assert only(spans, "compute").parent == job.id
    assert only(spans, "POST /api/process").id == job.parent


# -- how requests end --------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_shows_in_all_that_it_cancelled(
    server: SluiceProcess, collected: Collector, tmp_path: Path
) -> None:
    mark = Mark(tmp_path / "left")
    with RawClient(server.port) as client:
        client.post(PROCESS, call("hold", begun=str(mark)), X_Request_Id="left")
        mark.process()
    request = collected.request(sluice__request_id="left")
    spans = collected.trace(request)
    told = as_text(spans)
    assert (request["sluice.outcome"], request["sluice.cancelled_by"]) == ("disconnected", "disconnected"), told
    assert request["http.response.status_code"] is None
    for name in ("compute", "task run"):
        assert only(spans, name)["sluice.cancelled_by"] == "disconnected", told
    assert not any(one.is_error for one in spans), told


def test_a_deadline_is_an_error_of_all_that_it_cancelled(
    server: SluiceProcess, collected: Collector, tmp_path: Path
) -> None:
    body = call("hold", begun=str(tmp_path / "late"))
    assert error_of(post(server.port, body, X_Request_Id="late", Sluice_Deadline="0.3")) == (504, "deadline")
    request = collected.request(sluice__request_id="late")
    spans = collected.trace(request)
    told = as_text(spans)
    assert (request["sluice.outcome"], request["http.response.status_code"]) == ("deadline", 504), told
    for one in (request, only(spans, "compute")):
        assert (one["sluice.cancelled_by"], one["error.type"], one.is_error) == ("deadline", "deadline", True), told


def test_a_request_that_is_refused_says_so(server: SluiceProcess, collected: Collector, tmp_path: Path) -> None:
    with held(server, tmp_path), ExitStack() as clients:
        for _ in range(3):  # of whom one may wait
            clients.enter_context(RawClient(server.port)).post(PROCESS, call("echo", value=1), X_Request_Id="refused")
        collected.wait(lambda one: one["sluice.request_id"] == "refused", 2)
    request = collected.request(sluice__request_id="refused")
    assert (request["sluice.outcome"], request["http.response.status_code"]) == ("overloaded", 503)
    assert (request["error.type"], request.is_error, request["sluice.cancelled_by"]) == ("overloaded", True, None)
    assert only(collected.trace(request), "compute")["error.type"] == "overloaded"


def test_a_job_that_is_deleted_says_so(server: SluiceProcess, collected: Collector, tmp_path: Path) -> None:
    mark = Mark(tmp_path / "job")
    fields = {"Content-Type": "application/json", "Prefer": "respond-async", "X-Request-Id": "deleted"}
    body = call("hold", begun=str(mark))
    where = httpx.post(f"{server.url}{PROCESS}", content=body, headers=fields).headers["location"]
    mark.process()
    httpx.delete(f"{server.url}{where}").raise_for_status()
    request = collected.request(sluice__request_id="deleted")
    (computing,) = collected.wait(lambda one: one.name == "compute" and one.trace_id == request.trace_id)
    assert computing["sluice.cancelled_by"] == "delete"


def test_a_request_that_a_shutdown_cuts_says_so_and_its_span_still_leaves(
    folder: Path, collected: Collector, tmp_path: Path
) -> None:
    mark = Mark(tmp_path / "cut")
    with (
        traced(folder, collected.url, SLUICE_DRAIN_TIMEOUT="100ms", OTEL_BSP_SCHEDULE_DELAY="60000") as server,
        RawClient(server.port) as client,
    ):
        client.post(PROCESS, call("hold", begun=str(mark)), X_Request_Id="cut")
        mark.process()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not server.events("spans were dropped")
    request = collected.request(sluice__request_id="cut")
    told = as_text(collected.trace(request))
    assert (request["sluice.outcome"], request["sluice.cancelled_by"], request.is_error) == (
        "shutdown",
        "shutdown",
        True,
    ), told
    assert only(collected.trace(request), "compute")["sluice.cancelled_by"] == "shutdown", told


# -- the server --------------------------------------------------------------------------------------------------------


def test_each_serving_process_sends_its_own_spans(folder: Path, collected: Collector) -> None:
    with traced(folder, collected.url, HYPERCORN, workers=2) as server:
        pids = set(server.workers())

        def ask() -> Counter[int]:
            httpx.get(f"{server.url}/healthz")
            health = [one for one in collected.spans if one["http.route"] == "/healthz"]
            return Counter(one.resource["process.pid"] for one in health if one.resource["process.pid"] in pids)

        wait_until(lambda: len(ask()) == 2, "both have answered, and told of it")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    instances = {one.resource["service.instance.id"] for one in collected.spans if one.resource["process.pid"] in pids}
    assert len(instances) == 2


def test_a_server_whose_collector_hangs_serves_and_ends_as_ever(folder: Path) -> None:
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    with collector() as hanging:
        hanging.status = 0
        with traced(
            folder, hanging.url, SERVE, upstream="", workers=1, OTEL_EXPORTER_OTLP_TIMEOUT="25", **small
        ) as server:
            for _ in range(50):
                assert httpx.get(f"{server.url}/api/report/test-user").status_code == 200
            hanging.wait_requests(1)
            server.signal(signal.SIGTERM)
            assert server.wait(20) == 0  # before the exporter would have given up
            (dropped,) = server.events("spans were dropped")
            assert dropped["spans"] >= 150
            assert {line["level"] for line in server.log()} <= {"info", "warning"}
            assert len(server.events("spans are not taken")) <= 1


def test_unsampled_requests_are_traced_all_the_same_but_send_nothing(folder: Path) -> None:
    with collector() as collected:
        with traced(folder, collected.url, OTEL_TRACES_SAMPLER="parentbased_always_off") as server:
            answer = httpx.get(f"{server.url}/healthz")
            _, trace, _, flags = answer.headers["traceparent"].split("-")
            assert flags == "00"
            wait_until(lambda: trace in {line["trace_id"] for line in server.events("request")}, "its line in the log")
            followed = httpx.get(f"{server.url}/healthz", headers={"traceparent": TRACEPARENT})
            assert followed.headers["traceparent"].endswith("-01")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        assert {one.trace_id for one in collected.spans} == {TRACE}


def test_without_an_endpoint_nothing_of_it_is_loaded_and_no_trace_begins(folder: Path) -> None:
    with running(folder) as server:
        assert "traceparent" not in httpx.get(f"{server.url}/healthz").headers
        mapped = Path(f"/proc/{server.pid}/maps").read_text()
        assert "google/_upb" not in mapped  # of protobuf
        assert "trace_id" not in server.wait_for_event("request")[-1]


def test_without_its_packages_a_server_does_not_start_and_says_why(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    done = run(folder, "serve", PYTHONPATH=str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: needs opentelemetry-sdk" in line
    assert "sluice-server[otel]" in line
