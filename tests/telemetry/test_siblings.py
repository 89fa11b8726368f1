"""Several workers under the production command: a scrape of any of them tells of all."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.telemetry.families import FAMILIES
from tests.exchange import Connection
from tests.faults.traffic import RawClient, wait_until
from tests.processes import HYPERCORN, SluiceProcess, run, running
from tests.telemetry.scraping import Scrape, read, scrape

_PATH = "/api/report/test-user"
_OK = {"route": "/api/report/{user_id}", "outcome": "ok"}
# So that every room has something to tell.
_CONFIG = """
[live.topics.news]
policy = "drop-oldest"
[aggregate.v.sources.s]
url = "http://127.0.0.1:9/"
allow_private = true
breaker = {failures = 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siblings")
    for command in ("migrate", "demo"):
        assert run(folder, command).returncode == 0
    (folder / "sluice.toml").write_text(_CONFIG)
    return folder


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where servers have their folders for temporary files; a short path, for Python has sockets there too."""
    with tempfile.TemporaryDirectory(prefix="sluice-test-") as path:
        yield Path(path)


@contextmanager
def serving(folder: Path, temporary: Path) -> Generator[SluiceProcess]:
    variables = {"TMPDIR": str(temporary), "SLUICE_DRAIN_TIMEOUT": "0s", "SLUICE_CONFIG": str(folder / "sluice.toml")}
    with running(folder, HYPERCORN, workers=2, **variables) as server:
        yield server


def asked(port: int) -> float:
    return scrape(port).value("http_requests_total", **_OK)


def ask(port: int, count: int) -> None:
    """On connections of their own, which the workers share."""
    for _ in range(count):
        with Connection(port) as connection:
            assert connection.ask("GET", _PATH).status == 200


def scrape_of(server: SluiceProcess, worker: int) -> Scrape:
    """What that worker tells, to a connection that it took."""
    others = [pid for pid in server.workers() if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    with Connection(server.port) as connection:
        try:
            assert connection.ask("GET", "/healthz").status == 200
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
        return read(connection.ask("GET", "/metrics"))


def test_a_scrape_of_any_worker_adds_up_and_nothing_is_left(folder: Path, temporary: Path) -> None:
    with serving(folder, temporary) as server:
        assert {name.removesuffix("_total") for name in FAMILIES} == set(scrape(server.port).families)
        threads = [threading.Thread(target=ask, args=(server.port, 20)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in server.workers():
            told = scrape_of(server, worker)
            assert told.value("http_requests_total", **_OK) == 80
            assert told.value("http_request_duration_seconds_count", route=_OK["route"]) == 80
            assert told.value("http_response_bytes_total", route=_OK["route"]) == 80 * 20071
            assert told.value("sluice_workers", state="answered") == 2
            assert told.value("sluice_workers", state="silent") == 0
            assert told.value("sluice_connections_max") == 2 * 10000
            assert told.value("sluice_breaker_state", view="v", source="s", state="closed") == 2
            assert told.value("python_info") == 1
        _assert_a_stopped_one_is_not_waited_for(server)
        assert len(list(temporary.glob("sluice-*"))) == 1
        server.signal(signal.SIGTERM)
        server.wait()
        assert list(temporary.glob("sluice-*")) == []


def _assert_a_stopped_one_is_not_waited_for(server: SluiceProcess) -> None:
    stopped, _ = server.workers()
    os.kill(stopped, signal.SIGSTOP)
    try:
        told = scrape(server.port)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert told.value("sluice_workers", state="silent") == 1
    assert told.value("sluice_workers", state="answered") == 1
    assert told.value("http_requests_total", **_OK) == 80
    assert scrape(server.port).value("sluice_workers", state="answered") == 2


def test_counts_do_not_fall_when_a_worker_is_killed_and_the_last_one_leaves_nothing(
    folder: Path, temporary: Path
) -> None:
    with serving(folder, temporary) as server:
        port = server.port
        ask(port, 10)
        assert asked(port) == 10
        victim, _ = server.workers()
        before = scrape(port)
        # Its master would end the other one too.
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        after = read_from(port)
        assert after.value("http_requests_total", **_OK) == 10
        assert after.value("sluice_workers", state="answered") == 1
        for name in ("process_cpu_seconds_total", "sluice_db_query_seconds_count", "python_gc_collections_total"):
            assert after.value(name) >= before.value(name)
        assert len(list(temporary.glob("sluice-*"))) == 1
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not list(temporary.glob("sluice-*")), "it removes their folder")


def read_from(port: int) -> Scrape:
    """A connection that a worker that was killed had taken, or was about to, is reset."""
    while True:
        try:
            return scrape(port)
        except OSError:
            continue


def test_counts_stay_over_a_reload_and_tell_how_it_ended(folder: Path, temporary: Path) -> None:
    with serving(folder, temporary) as server, RawClient(server.port) as client:
        ask(server.port, 10)
        old = set(server.workers())
        client.request("POST", "/api/transform?step=upper", {"Content-Length": "10"})
        wait_until(lambda: scrape(server.port).value("http_requests_in_flight") == 2, "it runs")  # beside the scrape
        reload(server, 1)
        assert not old & set(server.workers())
        told = scrape(server.port)
        assert told.value("http_requests_total", **_OK) == 10
        assert told.value("http_requests_total", route="/api/transform", outcome="shutdown") == 1
        assert told.value("sluice_workers", state="answered") == 2
        assert [line["outcome"] for line in server.events("request") if "transform" in line["path"]] == ["shutdown"]
        # Workers that have no place for a folder tell of themselves.
        next(temporary.glob("sluice-*")).chmod(0o755)
        reload(server, 2)
        assert len(server.events("metrics are of each worker alone")) == 2
        assert scrape(server.port).value("sluice_workers", state="answered") == 1
        assert asked(server.port) == 0


def reload(server: SluiceProcess, times: int) -> None:
    """Returns when the new workers answer."""
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(server.events("stopped")) == 2 * times, "the old ones end")
    wait_until(lambda: server.stderr().count("Running on ") == 2 + 2 * times, "new ones serve")
    wait_until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200, "they answer")


def test_a_server_without_workers_makes_no_folder(folder: Path, temporary: Path) -> None:
    with running(folder, TMPDIR=str(temporary)) as server:
        assert scrape(server.port).value("sluice_workers", state="answered") == 1
        assert list(temporary.glob("sluice-*")) == []
