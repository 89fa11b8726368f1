"""``/``, ``/healthz`` and ``/readyz``, and what is at no route, as a client of a real server sees them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from app.errors import DatabaseUnavailable
from app.flow.threads import ThreadPool
from app.storage.blobs import LocalBlobs
from app.web.health import ask_all
from tests.exchange import Answer, Connection, ask
from tests.faults.traffic import wait_until
from tests.mariadb import MariaDb, environment
from tests.processes import SluiceProcess, run, running

_ROUTES = {
    "/",
    "/api/aggregate/{view}",
    "/api/jobs/{job_id}",
    "/api/jobs/{job_id}/events",
    "/api/jobs/{job_id}/result",
    "/api/live/{topic}",
    "/api/live/{topic}/ws",
    "/api/process",
    "/debug/tasks",
    "/api/report/{user_id}",
    "/api/report/{user_id}/versions",
    "/api/reports",
    "/api/tasks",
    "/api/transform",
    "/api/transform/steps",
    "/healthz",
    "/metrics",
    "/readyz",
}
_PATHS = ["/", "/healthz", "/readyz", "/api/report/test-user"]
_BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as `make run` makes it."""
    folder = tmp_path_factory.mktemp("index")
    for command in ("migrate", "demo"):
        done = run(folder, command)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[SluiceProcess]:
    with running(folder) as process:
        yield process


# -- what this is ------------------------------------------------------------------------------------------------------


def test_every_route_is_listed_with_a_command_that_works(server: SluiceProcess) -> None:
    text = ask(server.port, "GET", "/", {"Accept": "*/*"}).body.decode()
    assert set(re.findall(r"^[A-Z][A-Z ]* (/\S*)$", text, re.MULTILINE)) == _ROUTES
    commands = re.findall(r"^ +(curl .*)$", text, re.MULTILINE)
    assert len(commands) == len(_ROUTES) + 4  # a report can also be put, and deleted, as can a job; a topic is read
    for command in sorted(commands, key=lambda command: ("-X PUT" in command, "-X DELETE" in command)):
        endless = " -N " in command
        words = [*shlex.split(command), "--max-time", "2"] if endless else shlex.split(command)
        done = subprocess.run(words, capture_output=True, timeout=60, check=not endless)
        there_is_none = "/api/jobs/ID" in command or "/api/aggregate/VIEW" in command
        expected = b"HTTP/1.1 404" if there_is_none else b"HTTP/1.1 20"
        expected = b"HTTP/1.1 101" if "/ws" in command else expected
        assert done.stdout.startswith(expected), command


@pytest.mark.parametrize("host", ["", "a b", "$(true)", "x;true", "a/b"])
def test_a_host_that_is_none_gets_into_no_command(host: str, server: SluiceProcess) -> None:
    page = ask(server.port, "GET", "/", {"Host": host})
    if page.status == 200:
        commands = re.findall(r"curl .*", page.body.decode())
        options = r"""(?:-N )?(?:-X \w+ )?(?:-H '[\w :/=-]+' )*(?:(?:-d|--data-binary) '[\w {}:",-]+' )?"""
        shape = rf"curl -i {options}'?http://[\w.:\[\]-]+/\S*"
        assert [command for command in commands if not re.fullmatch(shape, command)] == []
    else:
        assert page.status == 400


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (_BROWSER, "text/html"),
        ("*/*", "text/plain"),
        (None, "text/plain"),
        ("text/html", "text/html"),
        ("text/plain, text/html;q=0.1", "text/plain"),
        ("application/json", "text/plain"),
    ],
)
def test_a_browser_gets_html_and_curl_gets_text(accept: str | None, kind: str, server: SluiceProcess) -> None:
    page = ask(server.port, "GET", "/", {} if accept is None else {"Accept": accept})
    assert page.status == 200
    assert page.fields["content-type"] == f"{kind}; charset=utf-8"
    assert page.fields["vary"] == "Accept"
    assert page.body.startswith(b"<!doctype html>") == (kind == "text/html")


def test_the_html_page_lists_the_same_and_needs_nothing_from_elsewhere(server: SluiceProcess) -> None:
    seen: list[tuple[str, dict[str, str | None]]] = []
    words: list[str] = []

    class _Page(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

        def handle_data(self, data: str) -> None:
            words.append(data)

    page = ask(server.port, "GET", "/", {"Accept": "text/html"})
    _Page().feed(page.body.decode())
    assert {word.split()[-1] for word in words if re.match(r"[A-Z]+ /", word)} == _ROUTES
    assert sum(word.startswith("curl -i ") for word in words) == len(_ROUTES) + 4
    assert not [tag for tag, _ in seen if tag in {"script", "link", "img", "iframe"}]
    assert "default-src 'none'" in page.fields["content-security-policy"]


# -- methods and paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", _PATHS)
def test_head_is_answered_as_get_without_a_body(path: str, server: SluiceProcess) -> None:
    got, head = ask(server.port, "GET", path), ask(server.port, "HEAD", path)
    assert (head.status, head.body) == (got.status, b"")
    varying = {"date", "x-request-id", *(["content-length"] if path == "/readyz" else [])}  # it tells how long it took
    assert {name: head.fields[name] for name in head.fields if name not in varying} == {
        name: got.fields[name] for name in got.fields if name not in varying
    }


def test_in_the_log_an_answer_to_head_has_no_bytes(server: SluiceProcess) -> None:
    for path in ("/healthz", "/nothing", "/api/report/test-user"):
        ask(server.port, "HEAD", path, {"X-Request-Id": "head"})

    def lines() -> list[dict[str, Any]]:
        return [line for line in server.events("request") if line["request_id"] == "head"]

    wait_until(lambda: len(lines()) == 3, "the requests are logged")
    assert [line["bytes"] for line in lines()] == [0, 0, 0]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_another_method_is_refused_with_those_that_are_allowed(method: str, path: str, server: SluiceProcess) -> None:
    refused = ask(server.port, method, path)
    assert refused.status == 405
    assert refused.problem["type"] == "urn:sluice:error:method-not-allowed"
    assert refused.fields["allow"].split(", ") == ["GET", "HEAD", "OPTIONS"]


@pytest.mark.parametrize("method", ["BREW", "get", "CONNECT"])
def test_a_method_that_http_does_not_know_is_not_implemented_wherever_it_is_asked_for(
    method: str, server: SluiceProcess
) -> None:
    for path in ("/", "/nothing"):
        refused = ask(server.port, method, path)
        assert (refused.status, refused.problem["type"]) == (501, "urn:sluice:error:not-implemented")
        assert refused.problem["request_id"] == refused.fields["x-request-id"]
        assert refused.fields["connection"] == "close"


@pytest.mark.parametrize("path", _PATHS)
def test_options_tells_what_is_allowed(path: str, server: SluiceProcess) -> None:
    told = ask(server.port, "OPTIONS", path)
    assert (told.status, told.body) == (200, b"")
    changes = {"PUT", "DELETE"} if "report" in path else set[str]()
    assert set(told.fields["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", *changes}


def test_options_of_the_server_itself_is_answered(server: SluiceProcess) -> None:
    told = ask(server.port, "OPTIONS", "*", {"X-Request-Id": "id-1"})  # RFC 9110 9.3.7
    assert (told.status, told.body, told.fields["x-request-id"]) == (204, b"", "id-1")
    assert "content-length" not in told.fields


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_no_other_method_has_the_server_itself_for_a_target(method: str, server: SluiceProcess) -> None:
    assert ask(server.port, method, "*").status == 400


def test_a_websocket_where_there_is_none_is_a_problem(server: SluiceProcess) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "X-Request-Id": "id-1",
    }
    missing = ask(server.port, "GET", "/nothing", handshake)
    assert (missing.status, missing.fields["x-request-id"]) == (404, "id-1")
    assert missing.problem["request_id"] == "id-1"


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/healthz/", "/api", "/api/report", "/HEALTHZ", "/.env", "/../healthz", "/%2e%2e/healthz", "/%00"],
)
def test_what_is_at_no_route_is_a_problem(path: str, server: SluiceProcess) -> None:
    missing = ask(server.port, "GET", path, {"X-Request-Id": "id-1", "Accept": _BROWSER})
    assert missing.status == 404
    document = missing.problem
    assert isinstance(document.pop("detail"), str)
    assert document == {
        "type": "urn:sluice:error:not-found",
        "title": "Not found",
        "status": 404,
        "request_id": "id-1",
        "error": "Not found",
    }


@pytest.mark.parametrize("path", ["//", "//healthz", "///"])
def test_a_doubled_slash_leads_nowhere_else(path: str, server: SluiceProcess) -> None:
    # A redirect to "//healthz" would be one to a host of that name.
    met = ask(server.port, "GET", path)
    assert met.status in {200, 404}
    assert "location" not in met.fields
    assert "html" not in met.fields["content-type"]


def test_one_connection_serves_all_kinds_of_answers(server: SluiceProcess) -> None:
    with Connection(server.port) as connection:
        for method in ("GET", "HEAD", "OPTIONS", "PUT"):
            for path in [*_PATHS, "/nothing"]:
                connection.ask(method, path)
                assert connection.open, (method, path)


# -- health ------------------------------------------------------------------------------------------------------------


def _ready(server: SluiceProcess) -> Answer:
    return ask(server.port, "GET", "/readyz")


def _checks(answer: Answer) -> dict[str, str]:
    return {name: check["status"] for name, check in json.loads(answer.body)["checks"].items()}


def test_a_sound_server_is_alive_and_ready(server: SluiceProcess) -> None:
    assert json.loads(ask(server.port, "GET", "/healthz").body) == {"status": "ok"}
    ready = _ready(server)
    assert ready.status == 200
    assert json.loads(ready.body)["status"] == "ok"
    assert _checks(ready) == {"compute": "ok", "database": "ok", "reports": "ok"}


def test_asking_whether_it_is_ready_leaves_nothing_in_the_folder(server: SluiceProcess, folder: Path) -> None:
    before = {path.name for path in (folder / "reports").iterdir()}
    assert _ready(server).status == 200
    assert {path.name for path in (folder / "reports").iterdir()} == before


def test_without_its_folder_a_server_is_alive_but_not_ready_and_says_why(server: SluiceProcess, folder: Path) -> None:
    away = (folder / "reports").rename(folder / "away")
    try:
        failing = _ready(server)
        assert failing.status == 503
        assert failing.problem["type"] == "urn:sluice:error:not-ready"
        assert "reports" in failing.problem["detail"]
        assert "database" not in failing.problem["detail"]
        assert _checks(failing) == {"compute": "ok", "database": "ok", "reports": "failing"}
        assert failing.problem["checks"]["reports"]["reason"] == "No such file or directory"
        assert int(failing.fields["retry-after"]) >= 1
        assert str(folder).encode() not in failing.body
        assert ask(server.port, "GET", "/healthz").status == 200
    finally:
        away.rename(folder / "reports")
    assert _ready(server).status == 200


def test_a_database_that_hangs_is_named_within_the_time_limit(mariadb: MariaDb, tmp_path: Path) -> None:
    variables = environment(mariadb.create_database())
    assert run(tmp_path, "migrate", **variables).returncode == 0
    assert mariadb._process is not None
    with running(tmp_path, None, workers=1, **variables) as server:
        assert _ready(server).status == 200
        os.kill(mariadb._process.pid, signal.SIGSTOP)
        try:
            failing = httpx.get(f"{server.url}/readyz", timeout=25)
            alive = httpx.get(f"{server.url}/healthz", timeout=25)
        finally:
            os.kill(mariadb._process.pid, signal.SIGCONT)
        assert alive.status_code == 200
        assert failing.status_code == 503
        checks = failing.json()["checks"]
        assert (checks["database"]["status"], checks["reports"]["status"]) == ("failing", "ok")
        assert "2 s" in checks["database"]["reason"]


async def test_checks_are_asked_at_once_and_each_has_its_time(autojump_clock: MockClock) -> None:
    async def sound() -> None:
        await trio.sleep(1)

    async def away() -> None:
        raise DatabaseUnavailable("cannot be asked now", internal="secret")

    began = trio.current_time()
    results = await ask_all({"b": trio.sleep_forever, "a": trio.sleep_forever, "c": sound, "d": away})
    assert trio.current_time() - began == pytest.approx(2)
    assert list(results) == ["a", "b", "c", "d"]
    assert [result["status"] for result in results.values()] == ["failing", "failing", "ok", "failing"]
    assert results["a"]["reason"] == "no answer within 2 s"
    assert results["c"] == {"status": "ok", "ms": 1000.0}
    assert results["d"]["reason"] == "cannot be asked now"


async def test_a_folder_that_hangs_is_named_within_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    # As a network file system that is away.
    monkeypatch.setattr(LocalBlobs, "_probe", lambda _: answered.wait(12))
    try:
        results = await ask_all({"reports": LocalBlobs(tmp_path, ThreadPool("files", 1)).probe})
        assert results["reports"]["status"] == "failing"
        assert not answered.is_set()
    finally:
        answered.set()
