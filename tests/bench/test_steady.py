"""The steady load, against a server that answers, and one that does not keep up; and what a view's answer must be."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.bench.aggregate import is_complete
from tests.bench.peer import SOURCES
from tests.bench.works import WORKS
from tests.exchange import ask
from tests.mariadb import free_port


@contextmanager
def answering(seconds: float) -> Generator[int]:
    """A port where each request is answered after so long."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(seconds)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def steadily(port: int, connections: int, rate: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.load", "steady", str(port), "/", "--seconds", "1"]
    command += ["--connections", str(connections), "--rate", str(rate)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)


def test_it_asks_as_often_as_it_is_told() -> None:
    with answering(0.01) as port:
        found = steadily(port, 4, 10)
    assert found["problems"] == []
    assert 36 < found["answers"] <= 40
    assert 10 < found["p50_ms"] <= found["p99_ms"]


def test_who_does_not_keep_up_is_told() -> None:
    with answering(0.2) as port:
        found = steadily(port, 2, 10)
    assert [problem.endswith("answers to 20 requests") for problem in found["problems"]] == [True]
    assert found["p99_ms"] > 300  # what was due waited for what was before it


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({"complete": True, "sources": {"a": 1, "b": 2, "c": 3}}, True),
        ({"complete": False, "sources": {"a": 1, "b": 2, "c": 3}}, False),
        ({"complete": True, "sources": {"a": 1}}, False),
    ],
)
def test_a_view_is_right_when_it_is_complete(body: Any, right: bool) -> None:
    assert is_complete(json.dumps(body).encode()) is right
    assert not is_complete(b"{")


def test_sources_are_as_slow_as_they_are_to_be() -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SOURCES / "slow_sources.py"), "0.05", str(port)])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                began = time.perf_counter()
                answer = ask(port, "GET", "/7")
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert time.perf_counter() - began >= 0.05
        assert json.loads(answer.body)["ok"] is True
    finally:
        process.kill()
        process.wait()


def test_the_work_tells_what_it_is_to_reach() -> None:
    work = WORKS["aggregate"]
    figures = {column.figure for column in work.columns}
    assert {target.figure for target in work.targets} <= figures
