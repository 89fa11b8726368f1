"""What the log of a real server tells, and what it must not."""

from __future__ import annotations

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.computing import PROCESS, Mark, call, computing, error_of, post
from tests.faults.conftest import Store
from tests.faults.traffic import RawClient, ask, refuses, wait_until
from tests.mariadb import free_port
from tests.processes import HYPERCORN, SERVE, command_environment, run, running

_TOKEN, _CLIENT_TOKEN, _CONTENT = "hush-hush", "client-hush", "what-the-report-says"
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_STALLING = [*HYPERCORN[:-1], "tests.faults.stalling_app:app"]
_VIEW = """
[aggregate.v.sources.s]
url = "http://127.0.0.1:{port}/{{id}}"
allow_private = true
headers = {{authorization = "Bearer ${{UPSTREAM_TOKEN}}"}}
"""


class _Upstream(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"said": _CONTENT, "given": self.headers["authorization"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_no_line_tells_a_secret_or_what_a_report_says(mysql_store: Store) -> None:
    folder = mysql_store.folder
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    (folder / "views.toml").write_text(_VIEW.format(port=upstream.server_port))
    settings: dict[str, Any] = {
        **mysql_store.environment,
        "SLUICE_CONFIG": str(folder / "views.toml"),
        "UPSTREAM_TOKEN": _TOKEN,
        "SLUICE_LOG_LEVEL": "debug",
    }
    fields = {"Authorization": f"Bearer {_CLIENT_TOKEN}", "Cookie": f"session={_CLIENT_TOKEN}"}
    with running(folder, SERVE, workers=1, **settings) as server:
        for http2 in (False, True):
            with httpx.Client(base_url=server.url, headers=fields, http1=not http2, http2=http2) as client:
                put = client.put("/api/report/secretive", content=_CONTENT * 10, headers={"Content-Type": "text/plain"})
                assert put.status_code in {200, 201, 204}
                assert _CONTENT in client.get("/api/report/secretive").text
                assert _TOKEN in client.get("/api/aggregate/v?id=1").text
                assert client.post("/api/transform?step=upper", content=_CONTENT).status_code == 200
        server.process.terminate()
        assert server.wait() == 0
        log = server.stderr()
    upstream.shutdown()
    upstream.server_close()
    assert len(log.splitlines()) > 8
    for secret in (_TOKEN, _CLIENT_TOKEN, _CONTENT, _CONTENT.upper(), mysql_store.environment["DB_PASS"]):
        assert secret not in log


@pytest.mark.parametrize("command", [SERVE, HYPERCORN], ids=["serve", "hypercorn"])
def test_the_level_holds_for_all_lines(command: list[str], folder: Path) -> None:
    port = free_port()
    with (folder / "log").open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "-w", "1"] if command is HYPERCORN else command,
            env=command_environment(folder, {"PORT": str(port), "SLUICE_LOG_LEVEL": "warning"}),
            cwd=folder,
            stderr=stderr,
        )
    try:
        wait_until(lambda: not refuses(port), "it listens", seconds=40)
        assert ask(port, "/nothing")[0].status == 404
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert (folder / "log").read_text() == ""


def test_what_a_worker_process_reports_is_logged_under_the_request_and_its_trace(folder: Path) -> None:
    parent = f"00-{_TRACE}-00f067aa0ba902b7-01"
    with computing(folder, SERVE) as server:
        assert error_of(post(server.port, call("fail"), X_Request_Id="failing", traceparent=parent)) == (
            500,
            "task-failed",
        )
        with RawClient(server.port) as client:
            mark = Mark(folder / "swallows")
            client.post(PROCESS, call("swallow", begun=str(mark)), X_Request_Id="leaving", traceparent=parent)
            mark.process()
            client.reset()
            (killed,) = server.wait_for_event("task killed")
        (failed,) = server.events("task failed")
        server.wait_for_event("request", count=3)
        for line in server.log():
            if line["event"] == "request" and line["path"] == PROCESS:
                assert line["trace_id"] == _TRACE
    assert (failed["request_id"], failed["trace_id"]) == ("failing", _TRACE)
    assert "Traceback" in failed["reason"]
    assert (killed["request_id"], killed["trace_id"]) == ("leaving", _TRACE)


def test_a_route_that_blocks_the_loop_is_named_with_its_request(folder: Path) -> None:
    with running(folder, _STALLING, SLUICE_STALL_WARN="100ms") as server:
        httpx.get(f"{server.url}/blocks?secret=1", headers={"X-Request-Id": "blocking"}).raise_for_status()
        (over,) = server.wait_for_event("event loop answers again")
        (told,) = server.events("event loop does not answer")
    assert (told["level"], told["request"], told["request_id"]) == ("warning", "GET /blocks", "blocking")
    assert told["at"].startswith("blocks (")
    assert "in blocks" in told["stack"]
    assert over["seconds"] > 0.1


def test_a_level_that_is_none_stops_the_start_in_one_line(folder: Path) -> None:
    done = run(folder, "serve", SLUICE_LOG_LEVEL="loud")
    assert done.returncode == 1
    assert done.stderr == (
        "sluice: SLUICE_LOG_LEVEL: 'loud' is not allowed: debug or info or warning or error or critical\n"
    )
