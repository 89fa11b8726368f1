"""Each metric moves when its cause happens, on a real server."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from wsproto.events import CloseConnection

from app.telemetry.families import FAMILIES
from tests.exchange import ask
from tests.faults.traffic import RawClient, locked_reports, wait_until, waiting_lookup
from tests.live.clients import JSON, feed, publish, websocket
from tests.mariadb import MariaDb, environment, free_port
from tests.processes import SluiceProcess, run, running
from tests.telemetry.scraping import OPEN_METRICS, Scrape, read, scrape

REPORT = "/api/report/{user_id}"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CONFIG = """
[tasks]
modules = ["tests.compute.behaving"]
[live.topics.drops]
policy = "drop-oldest"
buffer_events = 1
[aggregate.v.sources.self]
url = "http://127.0.0.1:{port}/healthz"
allow_private = true
[aggregate.v.sources.absent]
url = "http://127.0.0.1:{port}/nothing"
allow_private = true
[aggregate.v.sources.gone]
url = "http://127.0.0.1:{closed}/"
allow_private = true
breaker = {{failures = 1}}
"""

# Those of which a test here says what moves them.
MOVED: set[str] = set()


def moves(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    assert set(names) <= set(FAMILIES)
    MOVED.update(names)
    return lambda test: test


@dataclass(frozen=True)
class Site:
    """A server whose metrics are watched. first: what the first scrape told."""

    port: int
    folder: Path
    server: SluiceProcess
    first: str

    def task(self, client: RawClient, name: str, **fields: str) -> Path:
        """Has a task begun; the file by which it says so."""
        begun = self.folder / f"begun-{len(list(self.folder.glob('begun-*')))}"
        client.post("/api/process", json.dumps({"task": name, "args": {"begun": str(begun)}}).encode(), **fields)
        wait_until(begun.exists, f"{name} begins")
        return begun


@dataclass(frozen=True)
class Watch:
    site: Site
    before: Scrape

    def now(self, name: str, **labels: str) -> float:
        return scrape(self.site.port).value(name, **labels)

    def rose(self, name: str, **labels: str) -> float:
        return self.now(name, **labels) - self.before.value(name, **labels)

    def rises(self, by: float, name: str, **labels: str) -> None:
        """To that, and no further."""
        wait_until(lambda: self.rose(name, **labels) >= by, f"{name} {labels} rises")
        assert self.rose(name, **labels) == by

    def reaches(self, value: float, name: str, **labels: str) -> None:
        wait_until(lambda: self.now(name, **labels) == value, f"{name} {labels} is {value}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, mariadb: MariaDb) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("causes"), free_port()
    (folder / "sluice.toml").write_text(CONFIG.format(port=port, closed=free_port()))
    settings = mariadb.create_database()
    variables = environment(settings) | {
        "PORT": str(port),
        "SLUICE_CONFIG": str(folder / "sluice.toml"),
        "SLUICE_COMPUTE_WORKERS": "1",
        "SLUICE_COMPUTE_QUEUE": "1",
        "SLUICE_TASK_GRACE": "50ms",
        "SLUICE_MAX_CONNECTIONS": "30",
        "SLUICE_DB_POOL": "1",
    }
    for command in ("migrate", "demo"):
        assert run(folder, command, **variables).returncode == 0
    with running(folder, None, workers=1, **variables) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        site = Site(port, folder, server, ask(port, "GET", "/metrics").body.decode())
        _DATABASES[site] = (mariadb, settings)
        yield site


@pytest.fixture
def watch(site: Site) -> Watch:
    """What an earlier test has begun has ended."""
    wait_until(lambda: scrape(site.port).value("http_requests_in_flight") == 1, "nothing else runs")
    return Watch(site, scrape(site.port))


# -- requests ----------------------------------------------------------------------------------------------------------


@moves(
    *("http_requests_total", "http_request_duration_seconds", "http_first_byte_seconds"),
    *("http_response_bytes_total", "http_request_bytes_total"),
)
def test_a_request_is_told_by_its_route_and_never_by_its_path(site: Site, watch: Watch) -> None:
    where = {"route": REPORT, "method": "GET"}
    size = len(ask(site.port, "GET", "/api/report/test-user").body)
    watch.rises(1, "http_requests_total", **where, status="200", outcome="ok")
    watch.rises(1, "http_request_duration_seconds_count", **where)
    watch.rises(1, "http_request_duration_seconds_bucket", **where, le="+Inf")
    watch.rises(1, "http_first_byte_seconds_count", **where)
    watch.rises(size, "http_response_bytes_total", **where)
    assert (
        0
        < watch.rose("http_first_byte_seconds_sum", **where)
        <= watch.rose("http_request_duration_seconds_sum", **where)
    )
    assert ask(site.port, "PUT", "/api/report/somebody", body=b"%PDF-1.7").status == 201
    watch.rises(8, "http_request_bytes_total", route=REPORT, method="PUT")
    routes = {sample.labels["route"] for sample in scrape(site.port).samples("http_requests_total")}
    assert not [route for route in routes if "test-user" in route or "somebody" in route]


@pytest.mark.parametrize(
    ("method", "path", "status", "labels"),
    [
        ("GET", "/nothing/at/all", 404, {"method": "GET", "route": "unmatched"}),
        ("BREW", "/", 501, {"method": "other", "route": "unmatched"}),
        ("HEAD", "/healthz", 200, {"method": "HEAD", "route": "/healthz"}),
        ("GET", "/api/report/nobody", 404, {"method": "GET", "route": REPORT}),
        ("GET", "/api/jobs/none", 404, {"method": "GET", "route": "/api/jobs/{job_id}"}),
        ("POST", "/api/process", 400, {"method": "POST", "route": "/api/process"}),
    ],
)
def test_how_others_are_told(
    method: str, path: str, status: int, labels: dict[str, str], site: Site, watch: Watch
) -> None:
    assert ask(site.port, method, path, JSON, b"{" if method == "POST" else None).status == status
    outcome = "ok" if status < 400 else "client_error" if status < 500 else "error"
    watch.rises(1, "http_requests_total", status=str(status), outcome=outcome, **labels)


def test_an_error_of_ours(site: Site, watch: Watch) -> None:
    assert ask(site.port, "PUT", "/api/report/lost", body=b"%PDF-1.7").status == 201
    for path in (site.folder / "reports").rglob("*"):
        if path.is_file() and path.read_bytes() == b"%PDF-1.7":
            path.unlink()
    assert ask(site.port, "GET", "/api/report/lost").status == 500
    watch.rises(1, "http_requests_total", route=REPORT, status="500", outcome="error")


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"nonsense\r\n\r\n", "400"), (b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 40_000), "431")],
    ids=["400", "431"],
)
def test_what_the_wire_refuses_counts(request_: bytes, status: str, site: Site, watch: Watch) -> None:
    with RawClient(site.port) as client:
        client.send(request_)
        assert client.read_head().status == int(status)
    watch.rises(1, "http_requests_total", method="other", route="unmatched", status=status, outcome="client_error")


@moves("sluice_connections", "sluice_connections_max", "process_open_fds", "process_max_fds")
def test_connections_and_those_that_are_too_many(site: Site, watch: Watch) -> None:
    assert watch.now("sluice_connections_max") == 30
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(site.port)) for _ in range(5)]
        for client in clients:
            client.get("/healthz")
            client.answer()
        watch.reaches(5, "sluice_connections", protocol="http/1.1", state="idle")
        assert watch.now("sluice_connections", protocol="http/1.1", state="active") == 1  # that of the scrape
        assert watch.rose("process_open_fds") >= 5
        assert watch.now("process_max_fds") >= watch.now("process_open_fds")
        for _ in range(25):
            stack.enter_context(RawClient(site.port))
        with RawClient(site.port) as client:
            assert client.read_head().status == 503
    wait_until(lambda: httpx.get(f"{site.server.url}/healthz").status_code == 200, "there is a place again")
    watch.rises(1, "http_requests_total", status="503", outcome="overloaded")


@moves("sluice_live_subscribers", "sluice_live_published_total", "sluice_live_delivered_total")
def test_websockets_and_topics(site: Site, watch: Watch) -> None:
    with websocket(site.port, "drops") as client, feed(site.port, "undeclared"):
        watch.reaches(1, "sluice_connections", protocol="websocket", state="open")
        watch.reaches(1, "sluice_live_subscribers", topic="drops")
        watch.reaches(1, "sluice_live_subscribers", topic="other")
        assert publish(site.port, "drops", {"a": 1}).status == 202
        assert client.message()["data"] == {"a": 1}
        watch.rises(1, "sluice_live_published_total")
        watch.rises(1, "sluice_live_delivered_total")
        client.say(CloseConnection(1000))
        watch.rises(1, "http_requests_total", route="/api/live/{topic}/ws", method="GET", status="101", outcome="ok")
    watch.rises(1, "http_requests_total", route="/api/live/{topic}", status="499", outcome="disconnected")
    assert watch.rose("http_response_bytes_total", route="/api/live/{topic}/ws") > 0
    watch.reaches(0, "sluice_live_subscribers")


def test_http_2(site: Site, watch: Watch) -> None:
    with httpx.Client(http1=False, http2=True, base_url=site.server.url) as client:
        assert client.get("/api/report/test-user").http_version == "HTTP/2"
        watch.reaches(1, "sluice_connections", protocol="http/2", state="open")
        watch.rises(1, "http_requests_total", route=REPORT, outcome="ok")


def test_an_exemplar_names_the_trace_where_open_metrics_is_asked_for(site: Site) -> None:
    told = f"00-{TRACE}-b7ad6b7169203331-01"
    assert ask(site.port, "GET", "/api/report/test-user", {"traceparent": told}).status == 200
    not_sampled = f"00-{TRACE[::-1]}-b7ad6b7169203331-00"
    for _ in range(5):
        assert ask(site.port, "GET", "/api/report/test-user", {"traceparent": not_sampled}).status == 200

    def exemplars() -> set[str]:
        found = read(ask(site.port, "GET", "/metrics", OPEN_METRICS))
        samples = found.samples("http_request_duration_seconds_bucket", route=REPORT)
        return {sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar}

    wait_until(lambda: exemplars() == {TRACE}, "it is told")
    assert TRACE.encode() not in ask(site.port, "GET", "/metrics").body


# -- how requests end from outside -------------------------------------------------------------------------------------


@moves(
    *("http_requests_in_flight", "sluice_compute_workers", "sluice_compute_killed_total"),
    *("sluice_compute_queue", "sluice_compute_queue_max", "sluice_compute_wait_seconds"),
)
def test_who_leaves_and_who_is_refused_while_a_task_runs(site: Site, watch: Watch) -> None:
    with RawClient(site.port) as client, RawClient(site.port) as waiting:
        site.task(client, "spin")
        watch.reaches(1, "sluice_compute_workers", state="busy")
        waiting.post("/api/process", b'{"task": "echo", "args": {"value": 1}}')
        watch.reaches(1, "sluice_compute_queue")
        assert watch.now("sluice_compute_queue_max") == 1
        assert watch.now("http_requests_in_flight") == 3
        refused = ask(site.port, "POST", "/api/process", JSON, b'{"task": "echo", "args": {"value": 1}}')
        assert refused.status == 503
        watch.rises(1, "http_requests_total", route="/api/process", status="503", outcome="overloaded")
        client.reset()
        watch.rises(1, "http_requests_total", route="/api/process", status="499", outcome="disconnected")
        assert waiting.answer()[0].status == 200
    watch.rises(1, "sluice_compute_killed_total", reason="disconnected")
    watch.rises(2, "sluice_compute_wait_seconds_count")
    watch.reaches(0, "sluice_compute_queue")


def test_a_deadline(site: Site, watch: Watch) -> None:
    with RawClient(site.port) as client:
        site.task(client, "spin", Sluice_Deadline="2")
        assert client.answer()[0].status == 504
    watch.rises(1, "http_requests_total", route="/api/process", status="504", outcome="deadline")
    watch.rises(1, "sluice_compute_killed_total", reason="deadline")


# -- computing and jobs ------------------------------------------------------------------------------------------------


@moves("sluice_compute_run_seconds")
def test_tasks_by_name_and_a_crash(site: Site, watch: Watch) -> None:
    for body in (b'{"task": "echo", "args": {"value": 1}}', b'{"task": "stop", "args": {}}'):
        ask(site.port, "POST", "/api/process", JSON, body)
    watch.rises(1, "sluice_compute_run_seconds_count", task="echo")
    watch.rises(1, "sluice_compute_killed_total", reason="crashed")
    assert ask(site.port, "POST", "/api/process", JSON, b'{"task": "no-such-task"}').status == 404
    tasks = {sample.labels["task"] for sample in scrape(site.port).samples("sluice_compute_run_seconds_count")}
    assert "no-such-task" not in tasks


@moves("sluice_jobs", "sluice_jobs_ended_total")
def test_jobs(site: Site, watch: Watch) -> None:
    begun = site.folder / "begun-job"
    body = json.dumps({"task": "hold", "args": {"begun": str(begun)}}).encode()
    job = ask(site.port, "POST", "/api/process", JSON | {"Prefer": "respond-async"}, body)
    assert job.status == 202
    watch.reaches(1, "sluice_jobs", state="running")
    assert watch.now("http_requests_in_flight") == 1  # a job is none
    assert ask(site.port, "DELETE", job.fields["location"]).status == 204
    watch.rises(1, "sluice_jobs_ended_total", state="cancelled")
    watch.reaches(0, "sluice_jobs")


# -- pipelines and upstreams -------------------------------------------------------------------------------------------


@moves("sluice_transform_bytes_total", "sluice_channel_bytes", "sluice_thread_wait_seconds")
def test_what_steps_give_and_what_waits_between_them(site: Site, watch: Watch) -> None:
    text = b"ab" * 10_000
    sent = ask(site.port, "POST", "/api/transform?step=gunzip&step=upper", {}, gzip.compress(text))
    assert sent.body == text.upper()
    records = b'{"a":1,"b":2}\n' * 100
    assert ask(site.port, "POST", "/api/transform?step=select:a", {}, records).body == b'{"a":1}\n' * 100
    watch.rises(len(text), "sluice_transform_bytes_total", step="gunzip")
    watch.rises(len(text), "sluice_transform_bytes_total", step="upper")
    watch.rises(800, "sluice_transform_bytes_total", step="select")
    assert watch.rose("sluice_thread_wait_seconds_count", pool="transforms") >= 1
    with RawClient(site.port) as client:
        client.request("POST", "/api/transform?step=upper", {"Content-Length": "1000000000"})
        client._socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                client._socket.send(b"a" * 65536)
        wait_until(lambda: watch.now("sluice_channel_bytes") > 0, "the answer is not taken")
    watch.reaches(0, "sluice_channel_bytes")
    assert watch.rose("sluice_transform_bytes_total", step="upper") > len(text)


@moves("sluice_upstream_seconds", "sluice_breaker_state")
def test_upstreams(site: Site, watch: Watch) -> None:
    for _ in range(2):
        assert ask(site.port, "GET", "/api/aggregate/v").status == 200
    watch.rises(2, "sluice_upstream_seconds_count", view="v", source="self", outcome="ok")
    watch.rises(2, "sluice_upstream_seconds_count", view="v", source="absent", outcome="4xx")
    watch.rises(1, "sluice_upstream_seconds_count", view="v", source="gone", outcome="refused")
    assert watch.now("sluice_breaker_state", view="v", source="gone", state="open") == 1
    assert watch.now("sluice_breaker_state", view="v", source="gone", state="closed") == 0
    assert scrape(site.port).samples("sluice_breaker_state", source="self") == []  # it has none


@moves("sluice_live_dropped_total")
def test_events_that_a_slow_subscriber_does_not_get(site: Site, watch: Watch) -> None:
    with RawClient(site.port) as slow:
        slow.get("/api/live/drops")
        watch.reaches(1, "sluice_live_subscribers", topic="drops")

        def is_dropping() -> bool:
            assert publish(site.port, "drops", "x" * 60_000).status == 202
            return watch.rose("sluice_live_dropped_total", topic="drops", policy="drop-oldest") > 0

        wait_until(is_dropping, "its buffer is full")
        before = watch.now("sluice_live_dropped_total")
    watch.reaches(0, "sluice_live_subscribers")
    assert watch.now("sluice_live_dropped_total") >= before  # also once it has gone


# -- pools -------------------------------------------------------------------------------------------------------------

_DATABASES: dict[Site, tuple[MariaDb, object]] = {}


@contextmanager
def locked(site: Site) -> Generator[MariaDb]:
    mariadb, settings = _DATABASES[site]
    with locked_reports(mariadb, settings):  # type: ignore[arg-type]
        yield mariadb


@moves(
    *("sluice_db_connections", "sluice_db_connections_max", "sluice_db_waiting", "sluice_db_wait_seconds"),
    *("sluice_db_query_seconds", "sluice_db_queries_killed_total"),
)
def test_the_database(site: Site, watch: Watch) -> None:
    assert watch.now("sluice_db_connections_max") == 1
    with locked(site) as mariadb:
        with waiting_lookup(mariadb, site.port) as client, RawClient(site.port) as waiting:
            assert watch.now("sluice_db_connections", state="used") == 1
            waiting.get("/api/report/bob/versions")
            wait_until(lambda: watch.now("sluice_db_waiting") >= 1, "it waits for the connection")
            client.reset()
            watch.rises(1, "sluice_db_queries_killed_total")
        wait_until(lambda: watch.now("sluice_db_queries_killed_total") >= 2, "the other one is ended too")
    assert ask(site.port, "GET", "/api/report/test-user/versions").status == 200
    assert watch.rose("sluice_db_query_seconds_count") >= 3
    assert watch.rose("sluice_db_wait_seconds_count") >= 3
    assert watch.rose("sluice_db_wait_seconds_sum") > 0


@moves("sluice_threads", "sluice_thread_pool_utilisation", "sluice_threads_waiting")
def test_threads_are_told_of_each_pool(site: Site) -> None:
    told = scrape(site.port)
    for pool in ("files", "results", "transforms", "sendfile", "metrics", "trio"):
        assert told.value("sluice_threads", pool=pool) > 0
        assert 0 <= told.value("sluice_thread_pool_utilisation", pool=pool) <= 1
        assert told.value("sluice_threads_waiting", pool=pool) == 0


# -- the process -------------------------------------------------------------------------------------------------------


@moves(
    *("sluice_tasks", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes"),
    *("process_start_time_seconds", "python_gc_collections_total", "python_gc_objects_collected_total"),
    *("python_info", "sluice_workers"),
)
def test_the_process(site: Site, watch: Watch) -> None:
    with RawClient(site.port):
        watch.rises(1, "sluice_tasks")  # a connection is one
    stat = Path(f"/proc/{site.server.pid}/statm").read_text().split()
    assert watch.now("process_resident_memory_bytes") == pytest.approx(int(stat[1]) * 4096, rel=0.2)
    assert watch.now("process_virtual_memory_bytes") > watch.now("process_resident_memory_bytes")
    assert watch.now("process_start_time_seconds") == watch.before.value("process_start_time_seconds") > 1e9
    for _ in range(50):
        ask(site.port, "GET", "/")
    assert watch.rose("process_cpu_seconds_total") > 0
    assert watch.now("python_gc_collections_total") > 0
    assert watch.now("python_gc_objects_collected_total") > 0
    assert (watch.now("python_info"), watch.now("sluice_workers", state="answered")) == (1, 1)


def test_every_family_has_a_cause_here() -> None:
    elsewhere = {
        "sluice_log_dropped_total",
        "sluice_loop_lag_seconds",
        "sluice_spans_total",
        "python_gc_objects_uncollectable_total",
    }
    assert set(FAMILIES) - MOVED == elsewhere


# -- the scrape itself -------------------------------------------------------------------------------------------------


def test_from_the_first_scrape_on_every_family_is_announced(site: Site) -> None:
    for family in FAMILIES.values():
        assert f"# HELP {family.name} {family.meaning}\n" in site.first
        assert f"# TYPE {family.name} {family.kind}\n" in site.first
        assert family.labels or f"\n{family.name}{'_sum' if family.kind == 'histogram' else ''} " in site.first
    open_metrics = ask(site.port, "GET", "/metrics", OPEN_METRICS)
    assert open_metrics.body.endswith(b"# EOF\n")
    assert set(read(open_metrics).families) == {name.removesuffix("_total") for name in FAMILIES}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/json", "text/plain; version=0.0.4; charset=utf-8"),
        (
            # Prometheus's own.
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_the_format_is_that_which_is_asked_for(accept: str | None, content_type: str, site: Site) -> None:
    answer = ask(site.port, "GET", "/metrics", {} if accept is None else {"Accept": accept})
    assert answer.fields["content-type"] == content_type
    assert (answer.fields["cache-control"], answer.fields["vary"]) == ("no-store", "Accept")
    assert ask(site.port, "HEAD", "/metrics").body == b""


def test_hostile_requests_make_no_series(site: Site) -> None:
    """Some of their kind may; that there are more of them tells nothing new."""

    def series(numbers: range) -> set[str]:
        for number in numbers:
            ask(site.port, f"M{number}", f"/p{number}")
            ask(site.port, "GET", f"/api/report/u{number}")
            ask(site.port, "GET", f"/api/aggregate/v{number}")
            publish(site.port, f"t{number}", number)
        lines = ask(site.port, "GET", "/metrics").body.decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines}

    ask(site.port, "GET", "/metrics")
    before = series(range(50))
    assert series(range(50, 100)) == before
