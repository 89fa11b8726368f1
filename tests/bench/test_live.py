"""The loads of live topics, by a hub of which it is known what it does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.bench.client import LoadError
from tests.bench.live_load import fan_out, publish

# Sends each event to all who listen, but for every so manieth; and answers as it is told.
_HUB = """
import selectors, socket, sys
status, left_out = sys.argv[1], int(sys.argv[2])
selector = selectors.DefaultSelector()
listener = socket.create_server(("127.0.0.1", 0))
selector.register(listener, selectors.EVENT_READ)
print(listener.getsockname()[1], flush=True)
listening, came, sent = [], {}, 0
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            connection, _ = listener.accept()
            selector.register(connection, selectors.EVENT_READ)
            continue
        connection = key.fileobj
        data = came[connection] = came.get(connection, b"") + connection.recv(65536)
        head, end, body = data.partition(b"\\r\\n\\r\\n")
        if not end:
            if not data:
                selector.unregister(connection)
                connection.close()
            continue
        if data.startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\nretry: 1\\n\\n")
            listening.append(connection)
            selector.unregister(connection)
        elif len(body) == int(head.rpartition(b"Content-Length: ")[2].split()[0]):
            for one in listening:
                sent += 1
                if not left_out or sent % left_out:
                    for part in (b"id: 1\\ndata: " + body[:20], body[20:] + b"\\n\\n"):
                        one.sendall(part)
            connection.sendall(b"HTTP/1.1 %b Told\\r\\nContent-Length: 0\\r\\n\\r\\n" % status.encode())
            came[connection] = b""
"""


@contextmanager
def hub(status: str = "202", left_out: int = 0) -> Generator[int]:
    command = [sys.executable, "-c", _HUB, status, str(left_out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_all_that_comes_is_counted_and_timed() -> None:
    with hub() as port:
        found = fan_out(port, 5, 2, 50, 1)
    assert (found["problems"], found["delivered"]) == ([], 250)
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_what_does_not_come_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.live_load._SETTLE_SECONDS", 0.3)
    with hub(left_out=10) as port:
        found = fan_out(port, 5, 0, 100, 0.2)
    assert found["problems"] == ["10 of 100 events did not come"]


def test_publishers_go_on_as_they_are_answered() -> None:
    with hub() as port:
        found = publish(port, 3, 0.3)
    assert found["problems"] == []
    assert found["events_per_second"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_a_hub_that_refuses_is_told() -> None:
    with hub(status="503") as port, pytest.raises(LoadError, match="not published"):
        publish(port, 3, 5)
