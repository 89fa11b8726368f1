"""``/debug/tasks`` and ``python -m app tasks`` of real servers, with requests that wait for something."""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Store
from tests.faults.traffic import RawClient, locked_reports, wait_until, waiting_lookup
from tests.mariadb import MariaDb, free_port
from tests.processes import HYPERCORN, PYTHON, SERVE, SluiceProcess, command_environment, run, running

_JSON = {"Accept": "application/json"}


@pytest.fixture(scope="module", params=[SERVE, HYPERCORN], ids=["serve", "hypercorn"])
def server(request: pytest.FixtureRequest, mysql_store: Store) -> Iterator[SluiceProcess]:
    with running(mysql_store.folder, request.param, workers=1, **mysql_store.environment) as process:
        yield process


def _tree(server: SluiceProcess) -> dict[str, Any]:
    return httpx.get(f"{server.url}/debug/tasks", headers=_JSON).raise_for_status().json()


def _nodes(node: dict[str, Any]) -> Generator[dict[str, Any]]:
    yield node
    for child in node["children"]:
        yield from _nodes(child)


def _requests(tree: dict[str, Any], path: str) -> list[dict[str, Any]]:
    return [node for node in _nodes(tree) if node["kind"] == "request" and node["name"] == f"GET {path}"]


def test_a_query_that_a_table_lock_holds_shows_as_such(
    server: SluiceProcess, mariadb: MariaDb, mysql_store: Store
) -> None:
    with (
        locked_reports(mariadb, mysql_store.database),
        waiting_lookup(mariadb, server.port, X_Request_Id="held"),
    ):
        tree = _tree(server)
        text = httpx.get(f"{server.url}/debug/tasks").text
    (request,) = _requests(tree, "/api/report/ada")
    assert (request["request_id"], request["waits_on"]) == ("held", "query")
    assert request["age"] > 0
    assert 0 < request["deadline"] <= 60
    (query,) = [node for node in _nodes(tree) if node["kind"] == "query" and "FROM user_reports" in node["name"]]
    assert query["waits_on"] == "query"
    assert "ada" not in query["name"]
    (line,) = [line for line in text.splitlines() if "/api/report/ada" in line]
    assert re.match(r" +request GET /api/report/ada, id held, age [\d.]+ s, [\d.]+ s left, waits on query$", line)


def test_a_client_that_does_not_read_shows_as_such(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        client.get("/api/report/large-report")
        client.read_head()
        wait_until(
            lambda: [one["waits_on"] for one in _requests(_tree(server), "/api/report/large-report")] == ["peer"],
            "its request waits for it",
        )


def test_of_a_thousand_requests_each_is_told(server: SluiceProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(1000):
            subscriber = stack.enter_context(RawClient(server.port))
            subscriber.get(f"/api/live/topic-{number % 10}")
            subscriber.read_head()
        paths = Counter(one["name"] for one in _nodes(_tree(server)) if one["kind"] == "request")
        assert paths == {f"GET /api/live/topic-{number}": 100 for number in range(10)} | {"GET /debug/tasks": 1}
        # And they all go on: whoever looks at them holds up nobody for long.
        assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_what_is_idle_is_told_too(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        client.get("/healthz")
        client.answer()
        tree = _tree(server)
    assert tree["kind"] == "server"
    assert tree["waits_on"] is None
    idle = [one for one in tree["children"] if one["kind"] == "connection" and not one["children"]]
    assert [one["waits_on"] for one in idle] == ["peer"]
    assert 0 < idle[0]["deadline"] <= 75
    rooms = {one["name"] for one in tree["children"] if one["kind"] == "room"}
    assert rooms >= {"compute", "jobs", "live", "storage", "telemetry", "web", "wire"}
    assert [one["name"] for one in _nodes(tree) if one["kind"] == "process"]


def test_nobody_else_is_told(server: SluiceProcess) -> None:
    for fields in ({"X-Forwarded-For": "127.0.0.1"}, {"Host": "evil.example"}):
        answer = httpx.get(f"{server.url}/debug/tasks", headers=fields)
        assert answer.status_code == 403
        assert answer.json()["type"].endswith(":forbidden")


def test_of_several_workers_one_answers_and_says_which(folder: Path) -> None:
    with running(folder, HYPERCORN, workers=2) as server, httpx.Client() as client:
        names = {client.get(f"{server.url}/debug/tasks", headers=_JSON).json()["name"] for _ in range(3)}
        (name,) = names  # of one connection there is one
        assert int(name.rpartition(" ")[2]) in server.workers()


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_shows_the_tree_once_where_there_is_no_terminal(server: SluiceProcess, folder: Path) -> None:
    for arguments, extra in ((["--url", server.url], {}), ([], {"PORT": str(server.port), "HOST": "0.0.0.0"})):
        done = run(folder, "tasks", *arguments, **extra)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("server sluice ")
        assert "request GET /debug/tasks" in done.stdout


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1", "http://127.0.0.1:x", "http://", "http://[::1"])
def test_what_is_no_url_is_told_in_one_line(url: str, folder: Path) -> None:
    done = run(folder, "tasks", "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"sluice: --url: '{url}' is not allowed: ")
    assert len(done.stderr.splitlines()) == 1


def test_where_no_server_is_that_is_told_in_one_line(folder: Path, server: SluiceProcess) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", f"{server.url}/elsewhere", f"https://127.0.0.1:{server.port}"):
        done = run(folder, "tasks", "--url", url)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"sluice: {url}: ")
        assert len(done.stderr.splitlines()) == 1


@contextmanager
def _on_terminal(folder: Path, url: str) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PYTHON, "-m", "app", "tasks", "--url", url],
        env=command_environment(folder),
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _shown(terminal: int, *, clears: int | None = None) -> str:
    """What is shown until the screen has been cleared so often, or to the end."""
    shown = b""
    deadline = time.monotonic() + 30
    while clears is None or shown.count(b"\x1b[2J") < clears:
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], shown
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # nobody has its other end any more
            break
    return shown.decode()


@pytest.mark.parametrize("end", ["q", "ctrl-c"])
def test_on_a_terminal_it_is_refreshed_until_somebody_ends_it(end: str, server: SluiceProcess, folder: Path) -> None:
    with _on_terminal(folder, server.url) as (process, terminal):
        shown = _shown(terminal, clears=3)
        assert "server sluice" in shown
        if end == "q":
            os.write(terminal, b"q")
        else:
            process.send_signal(signal.SIGINT)
        rest = _shown(terminal)
        assert process.wait(20) == 0
    assert rest.endswith("\x1b[?1049l")
    assert "Traceback" not in rest
