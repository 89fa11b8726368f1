"""Views under the real command: mistakes that stop the start, secrets, and a shutdown in the middle of a call."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.exchange import ask
from tests.faults.traffic import RawClient, wait_until
from tests.processes import HYPERCORN, SluiceProcess, run, running

_VIEW = """
[aggregate.v]
[aggregate.v.sources.s]
url = "http://127.0.0.1:{port}/{{id}}"
allow_private = true
headers = {{authorization = "Bearer ${{UPSTREAM_TOKEN}}"}}
"""
_TOKEN = "hush-hush"


def configured(folder: Path, port: int = 9) -> dict[str, Any]:
    (folder / "sluice.toml").write_text(_VIEW.format(port=port))
    return {"SLUICE_CONFIG": "sluice.toml", "UPSTREAM_TOKEN": _TOKEN}


@contextmanager
def silent_upstream(closed: threading.Event, asked: list[bytes]) -> Generator[int]:
    """A port where one connection is taken, read and never answered; ``closed`` once the other side has left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(60)
                while data := connection.recv(65536):
                    asked.append(data)
                closed.set()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def outcomes(server: SluiceProcess) -> list[str]:
    """Of the requests for views."""
    return [line["outcome"] for line in server.events("request") if line["path"].startswith("/api/aggregate/")]


def test_a_mistake_stops_the_start_and_names_the_key(tmp_path: Path) -> None:
    assert run(tmp_path, "migrate").returncode == 0
    (tmp_path / "sluice.toml").write_text('[aggregate.v.sources.s]\nurl = "ftp://a/"\n')
    for command in ("serve", "check"):
        done = run(tmp_path, command, SLUICE_CONFIG="sluice.toml")
        assert done.returncode == 1
        assert "sluice.toml: aggregate.v.sources.s.url: its value is not allowed: an address of HTTP" in done.stderr


def test_a_check_shows_no_secret(tmp_path: Path) -> None:
    assert run(tmp_path, "migrate").returncode == 0
    done = run(tmp_path, "check", **configured(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:9" in done.stdout
    assert _TOKEN not in done.stdout + done.stderr
    assert "UPSTREAM_TOKEN" in run(tmp_path, "check", SLUICE_CONFIG="sluice.toml").stderr


def test_a_client_that_leaves_takes_its_calls_with_it(tmp_path: Path) -> None:
    assert run(tmp_path, "migrate").returncode == 0
    closed, asked = threading.Event(), list[bytes]()
    with silent_upstream(closed, asked) as port, running(tmp_path, HYPERCORN, **configured(tmp_path, port)) as server:
        with RawClient(server.port) as client:
            client.send(b"GET /api/aggregate/v?id=7 HTTP/1.1\r\nHost: sluice\r\n\r\n")
            wait_until(lambda: bool(asked), "the upstream is asked")
        assert closed.wait(30)
        wait_until(lambda: outcomes(server) == ["disconnected"], "the request is over")
        assert _TOKEN not in server.stderr()
    assert f"\r\nauthorization: Bearer {_TOKEN}\r\n".encode() in b"".join(asked)


def test_a_shutdown_ends_calls_that_take_too_long(tmp_path: Path) -> None:
    assert run(tmp_path, "migrate").returncode == 0
    closed, asked = threading.Event(), list[bytes]()
    with (
        silent_upstream(closed, asked) as port,
        running(tmp_path, **configured(tmp_path, port), SLUICE_DRAIN_TIMEOUT="100ms") as server,
        RawClient(server.port) as client,
    ):
        client.send(b"GET /api/aggregate/v?id=7 HTTP/1.1\r\nHost: sluice\r\n\r\n")
        wait_until(lambda: bool(asked), "the upstream is asked")
        server.signal(signal.SIGTERM)
        head, body = client.answer()
        assert (head.status, body["status"]) == (503, 503)
        assert closed.wait(30)
        assert server.wait() == 0


def test_an_upstream_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert run(tmp_path, "migrate").returncode == 0
    with running(tmp_path, **configured(tmp_path)) as server:
        answer = ask(server.port, "GET", "/api/aggregate/v?id=7")
        assert answer.status == 200
        assert json.loads(answer.body)["sources"]["s"]["reason"] == "refused"
