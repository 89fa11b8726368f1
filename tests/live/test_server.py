"""Live topics of a real server, as curl, a browser's EventSource and a WebSocket meet them."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.exchange import ask
from tests.live.clients import JSON, feed, publish, websocket
from tests.mariadb import MariaDb, environment
from tests.processes import SluiceProcess, run, running

ORIGIN = "https://pages.example"
CONFIG = f"""
[live]
origins = ["{ORIGIN}"]
[live.topics.chat]
publish_by_websocket = true
[live.topics.full]
max_subscribers = 1
[live.topics.flow]
policy = "block"
buffer_events = 1
[live.topics.errors]
from = "logs"
steps = ["where:level == error", "select:ts"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    (folder / "sluice.toml").write_text(CONFIG)
    assert run(folder, "migrate").returncode == 0
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[SluiceProcess]:
    with running(folder, SLUICE_CONFIG=str(folder / "sluice.toml")) as process:
        yield process


@pytest.fixture
def port(server: SluiceProcess) -> int:
    return server.port


# -- publishing --------------------------------------------------------------------------------------------------------


def test_an_event_has_the_same_id_everywhere(port: int) -> None:
    with feed(port, "same") as events, websocket(port, "same") as socket:
        answer = publish(port, "same", {"a": [1, "ä"]}, "?event=tick")
        assert answer.status == 202
        id = json.loads(answer.body)["id"]
        assert next(events.events()) == (id, "tick", {"a": [1, "ä"]})
        assert socket.message() == {"id": id, "event": "tick", "data": {"a": [1, "ä"]}}


@pytest.mark.parametrize(
    ("path", "fields", "body", "status", "name"),
    [
        ("a", JSON, b'{"a":', 400, "bad-json"),
        ("a", JSON, b"", 400, "bad-json"),
        ("a", {}, b"1", 415, "unsupported-media-type"),
        ("a", {"Content-Type": "text/plain"}, b"1", 415, "unsupported-media-type"),
        ("a", JSON | {"Content-Encoding": "gzip"}, b"1", 415, "unsupported-content-encoding"),
        ("a", JSON, b'"' + b"x" * 65536 + b'"', 413, "body-too-large"),
        ("a%20b", JSON, b"1", 400, "bad-request"),
        ("a?event=a%0Ab", JSON, b"1", 400, "bad-request"),
        ("a?event=lagged", JSON, b"1", 400, "bad-request"),
        ("a?event=", JSON, b"1", 400, "bad-request"),
        ("a?event=a&event=b", JSON, b"1", 400, "bad-request"),
        ("a", JSON | {"Idempotency-Key": "a b"}, b"1", 400, "bad-idempotency-key"),
        ("errors", JSON, b"{}", 403, "forbidden"),
    ],
)
def test_what_is_not_published(
    port: int, path: str, fields: dict[str, str], body: bytes, status: int, name: str
) -> None:
    answer = ask(port, "POST", f"/api/live/{path}", fields | {"Origin": ORIGIN}, body)
    assert (answer.status, answer.problem["type"]) == (status, f"urn:sluice:error:{name}")
    assert answer.fields["access-control-allow-origin"] == ORIGIN


def test_the_same_request_is_published_once(port: int) -> None:
    first, again = (publish(port, "once", 1, Idempotency_Key="k1") for _ in range(2))
    assert (again.status, again.body) == (first.status, first.body)
    assert publish(port, "once", 2, Idempotency_Key="k1").status == 422
    assert publish(port, "once", 1, "?event=x", Idempotency_Key="k1").status == 422
    assert publish(port, "other", 1, Idempotency_Key="k1").status == 202
    publish(port, "once", 3)
    with feed(port, "once", "?since=beginning") as events:
        assert events.read(2) == [1, 3]


def test_derived(port: int) -> None:
    with feed(port, "errors") as events:
        publish(port, "logs", {"level": "info", "ts": 1})
        publish(port, "logs", {"level": "error", "ts": 2, "x": 1})
        assert events.read(1) == [{"ts": 2}]


# -- subscribing -------------------------------------------------------------------------------------------------------


def test_what_a_feed_says_of_itself(port: int) -> None:
    with feed(port, "a", Origin=ORIGIN) as events:
        fields = events.response.headers
        assert fields["Content-Type"] == "text/event-stream"
        assert fields["Cache-Control"] == "no-store"
        assert fields["X-Accel-Buffering"] == "no"
        assert fields["Access-Control-Allow-Origin"] == ORIGIN
    head = ask(port, "HEAD", "/api/live/a")
    assert (head.status, head.fields["content-type"]) == (200, "text/event-stream")


@pytest.mark.parametrize("way", ["header", "query"])
def test_resuming(port: int, way: str) -> None:
    ids = [json.loads(publish(port, f"resume-{way}", number).body)["id"] for number in range(5)]
    given: dict[str, Any] = {"Last_Event_ID": ids[1]} if way == "header" else {"query": f"?last_event_id={ids[1]}"}
    with feed(port, f"resume-{way}", **given) as events:
        assert events.read(3) == [2, 3, 4]
    given = {"query": f"?last_event_id={ids[3]}"}
    with websocket(port, f"resume-{way}", **given) as socket:
        assert socket.message() == {"id": ids[4], "event": "message", "data": 4}


@pytest.mark.parametrize("given", ["x" * 1025, "\xff", "x\x80y"], ids=["long", "no UTF-8", "no UTF-8 either"])
@pytest.mark.parametrize("way", ["feed", "websocket"])
def test_an_id_that_cannot_be_read_is_a_gap(port: int, given: str, way: str) -> None:
    id = json.loads(publish(port, "unread", 1).body)["id"]
    if way == "feed":
        with feed(port, "unread", Last_Event_ID=given) as events:
            _, kind, told = next(events.events())
    else:
        with websocket(port, "unread", **{"Last-Event-ID": given}) as socket:
            message = socket.message()
            kind, told = message["event"], message["data"]
    assert (kind, told["after"], told["reason"]) == ("gap", given[:64], "not an id of this topic")
    assert told["before"].partition("-")[0] == id.partition("-")[0]


def test_who_has_to_come_again_before_anything_came_misses_nothing(port: int) -> None:
    with feed(port, "early") as events:
        before = events.last
    publish(port, "early", 1)
    with feed(port, "early", Last_Event_ID=str(before)) as events:
        assert events.read(1) == [1]
    with feed(port, "early") as events:
        later = events.last
    publish(port, "early", 2)
    with feed(port, "early", Last_Event_ID=str(later)) as events:
        assert events.read(1) == [2]


def test_an_id_of_something_else_is_a_gap(port: int) -> None:
    publish(port, "gap", 1)
    with feed(port, "gap", Last_Event_ID="x") as events:
        id, kind, told = next(events.events())
        assert (id, kind, told["reason"]) == (None, "gap", "not an id of this topic")
        assert events.read(1) == [1]
    with websocket(port, "gap", "?last_event_id=x") as socket:
        assert socket.message()["event"] == "gap"


@pytest.mark.parametrize("path", ["a%20b", "a?since=yesterday", "a?last_event_id=1&last_event_id=2"])
def test_what_is_not_subscribed_to(port: int, path: str) -> None:
    assert ask(port, "GET", f"/api/live/{path}").problem["status"] == 400


def test_there_is_a_limit_of_subscribers(port: int) -> None:
    with feed(port, "full") as events:
        refused = ask(port, "GET", "/api/live/full")
        assert (refused.status, refused.problem["type"]) == (503, "urn:sluice:error:overloaded")
        assert int(refused.fields["retry-after"]) > 0
        with websocket(port, "full") as socket:
            assert socket.refused == 503
        publish(port, "full", 1)
        assert events.read(1) == [1]


def test_preflight(port: int) -> None:
    answer = ask(port, "OPTIONS", "/api/live/a", {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.fields["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.fields["access-control-allow-methods"]
    allowed = answer.fields["access-control-allow-headers"].split(", ")
    assert {"idempotency-key", "traceparent", "tracestate"} <= set(allowed)
    other = ask(port, "OPTIONS", "/api/live/a", {"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.fields


# -- WebSockets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("origin", "status"), [("https://other.example", 403), ("null", 403), (ORIGIN, None)])
def test_pages_of_other_sites_open_no_websocket(port: int, origin: str, status: int | None) -> None:
    with websocket(port, "a", Origin=origin) as socket:
        assert socket.refused == status


def test_our_own_pages_do(port: int) -> None:
    with websocket(port, "a", Origin=f"http://127.0.0.1:{port}") as socket:
        assert socket.refused is None


def test_publishing_by_websocket(port: int) -> None:
    with websocket(port, "chat") as socket, feed(port, "chat") as events:
        socket.send({"data": {"x": 1}, "event": "say", "ref": 7})
        messages = [socket.message(), socket.message()]
        told = next(message for message in messages if "published" in message)
        came = next(message for message in messages if "event" in message)
        assert (told["ref"], told["published"]) == (7, came["id"])
        assert next(events.events()) == (came["id"], "say", {"x": 1})
        for bad in ("{", {"event": "x"}, {"data": 1, "event": "gap"}):
            socket.send(bad)
            assert socket.message()["problem"]["status"] == 400


def test_where_that_is_not_allowed_whoever_speaks_is_closed(port: int) -> None:
    with websocket(port, "a") as socket:
        socket.send({"data": 1})
        assert socket.closed() == 1008


def test_who_leaves_is_gone(server: SluiceProcess) -> None:
    with feed(server.port, "leaving"), websocket(server.port, "leaving"):
        pass
    server.wait_for_event("request")
    deadline = time.monotonic() + 10
    while len([line for line in server.events("request") if "/leaving" in line["path"]]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    outcomes = {line["outcome"] for line in server.events("request") if "/leaving" in line["path"]}
    assert outcomes == {"disconnected"}


# -- slow --------------------------------------------------------------------------------------------------------------


def test_who_stalls_is_told_what_it_has_lost(port: int) -> None:
    with feed(port, "slow") as stalled, feed(port, "slow") as reader:
        events, late = reader.events(), stalled.events()
        ids: list[str] = []
        for _ in range(300):  # more than all buffers between here and there
            ids.append(json.loads(publish(port, "slow", "x" * 60_000).body)["id"])
            # What one of them does not take, the other does not wait for.
            assert next(events)[0] == ids[-1]
        got: list[str | None] = []
        told: list[Any] = []
        while ids[-1] not in got:
            id, kind, data = next(late)
            (told if kind == "lagged" else got).append(data if kind == "lagged" else id)
        missing = [id for id in ids if id not in got]
        assert got == [id for id in ids if id in got]
        assert [one["reason"] for one in told] == ["dropped"] * len(told)
        assert sum(one["dropped"] for one in told) == len(missing) > 0
        assert (told[0]["first"], told[-1]["last"]) == (missing[0], missing[-1])


def test_who_must_not_lose_anything_slows_publishers_down_to_their_deadline(port: int) -> None:
    with feed(port, "flow") as stalled:
        ids: list[str] = []
        while (answer := publish(port, "flow", "x" * 60_000, Sluice_Deadline="0.5")).status == 202:
            ids.append(json.loads(answer.body)["id"])
            assert len(ids) < 500
        assert (answer.status, answer.problem["type"]) == (504, "urn:sluice:error:deadline")
        events = stalled.events()
        assert [next(events)[0] for _ in ids] == ids
        publish(port, "flow", "on")
        # One whose deadline passed during its commit may be there all the same.
        assert any(data == "on" for _, _, data in islice(events, 2))


def test_publishing_by_websocket_has_the_deadline_of_a_request(folder: Path) -> None:
    (folder / "short.toml").write_text(
        '[live.topics.flow]\npolicy = "block"\nbuffer_events = 1\npublish_by_websocket = true\n'
    )
    extra: dict[str, Any] = {"SLUICE_CONFIG": str(folder / "short.toml"), "SLUICE_REQUEST_DEADLINE": "1"}
    with (
        running(folder, **extra) as server,
        feed(server.port, "flow") as stalled,
        websocket(server.port, "flow") as socket,
    ):
        answers: list[Any] = []
        while not answers or "problem" not in answers[-1]:
            assert len(answers) < 500
            socket.send({"data": "x" * 60_000, "ref": len(answers)})
            while "ref" not in (message := socket.message()):
                pass
            answers.append(message)
        assert answers[-1]["problem"]["status"] == 504
        assert [answer["ref"] for answer in answers] == list(range(len(answers)))
        stalled.close()
        socket.send({"data": "on", "ref": "on"})
        while "ref" not in (message := socket.message()):
            pass
        assert "published" in message
        assert message["ref"] == "on"


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_shutdown_waits_for_no_subscriber(folder: Path) -> None:
    with running(folder) as server, ExitStack() as stack:
        feeds = [stack.enter_context(feed(server.port, "end")) for _ in range(250)]
        sockets = [stack.enter_context(websocket(server.port, "end")) for _ in range(250)]
        publish(server.port, "end", 1)
        assert [one.read(1) for one in feeds] == [[1]] * 250
        assert [one.message()["data"] for one in sockets] == [1] * 250
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        assert all(list(one.events()) == [] and one.retry is not None for one in feeds)
        assert {one.closed() for one in sockets} == {1012}
        took = time.monotonic() - begun
        assert server.wait() == 0
        assert server.events("stopped")[0]["cut"] == 0
        assert len({one.retry for one in feeds}) > 100  # so that they do not all come again at once
    print(f"500 subscribers were told within {took:.2f} s")


@pytest.mark.parametrize("kind", ["sqlite", "mysql"])
def test_killed_and_resumed(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    extra: dict[str, Any] = {}
    if kind == "mysql":
        mariadb: MariaDb = request.getfixturevalue("mariadb")
        extra = environment(mariadb.create_database())
    assert run(tmp_path, "migrate", **extra).returncode == 0
    acknowledged: list[str] = []
    got: list[tuple[str, int]] = []
    last: str | None = None
    for life in range(2):
        with running(tmp_path, **extra) as server:
            stop = threading.Event()

            def publish_on(server: SluiceProcess = server, life: int = life, stop: threading.Event = stop) -> None:
                number = 0
                while not stop.is_set():
                    try:
                        answer = publish(server.port, "kill", life * 10_000 + number)
                    except OSError:
                        return
                    acknowledged.append(json.loads(answer.body)["id"])
                    number += 1

            fields: dict[str, Any] = {} if last is None else {"Last_Event_ID": last}
            with feed(server.port, "kill", "" if last else "?since=beginning", **fields) as events:
                thread = threading.Thread(target=publish_on)
                thread.start()
                for _, (id, event, data) in zip(range(30), events.events(), strict=False):
                    assert (event, id is not None) == ("message", True)
                    got.append((str(id), data))
                last = got[-1][0]
                server.signal(signal.SIGKILL)
            stop.set()
            thread.join()
    with running(tmp_path, **extra) as server, feed(server.port, "kill", f"?last_event_id={last}") as events:
        publish(server.port, "kill", -1)
        for id, event, data in events.events():
            assert event == "message"
            got.append((str(id), data))
            if data == -1:
                break
    ids = [id for id, _ in got]
    assert [int(id.rpartition("-")[2]) for id in ids] == list(range(1, len(ids) + 1))
    assert len({id.partition("-")[0] for id in ids}) == 1
    assert set(acknowledged) <= set(ids)


_UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def test_a_drain_does_not_wait_for_who_does_not_read(folder: Path) -> None:
    """The other limits are so long that the server would not end in time."""
    limits: dict[str, Any] = {"SLUICE_DRAIN_TIMEOUT": "5min", "SLUICE_STALL_TIMEOUT": "5min"}
    with running(folder, **limits) as server, ExitStack() as stack:
        for path, upgrade in (("/api/live/big", b""), ("/api/live/big/ws", _UPGRADE)):
            stalled = stack.enter_context(socket.socket())
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", server.port))
            stalled.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (path.encode(), upgrade))
            assert stalled.recv(12).startswith(b"HTTP/1.1 ")
        for _ in range(200):  # more than the sockets hold
            publish(server.port, "big", "x" * 60_000)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        outcomes = [line["outcome"] for line in server.events("request") if line["method"] == "GET"][1:]
        assert outcomes == ["shutdown", "shutdown"]
