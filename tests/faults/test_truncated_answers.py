"""An answer that fails after its first byte never looks complete, on any protocol."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from tests.processes import SluiceProcess, run, running

_SIZE = 8 * 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SluiceProcess]:
    assert run(tmp_path, "migrate").returncode == 0
    (tmp_path / "reports").mkdir()
    (tmp_path / "large.bin").write_bytes(bytes(_SIZE))
    assert run(tmp_path, "add", "large", "large.bin").returncode == 0
    with running(tmp_path) as process:
        yield process


def _truncate(folder: Path) -> None:
    (stored,) = (path for path in (folder / "reports").rglob("*.bin"))
    with stored.open("r+b") as file:
        file.truncate(_SIZE // 2)


def test_over_http_1_the_connection_is_closed_before_the_announced_length(
    server: SluiceProcess, tmp_path: Path
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"GET /api/report/large HTTP/1.1\r\nHost: sluice\r\n\r\n")
        received = len(client.recv(1024))
        _truncate(tmp_path)
        while data := client.recv(1 << 16):
            received += len(data)
    assert received < _SIZE
    (line,) = [line for line in server.wait_for_event("request", count=2) if line["path"] == "/api/report/large"]
    assert line["outcome"] == "error"


def test_over_http_2_the_stream_is_reset_and_the_connection_goes_on(server: SluiceProcess, tmp_path: Path) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        connection.initiate_connection()
        events: list[h2.events.Event] = []

        def get(stream: int, path: str) -> None:
            head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "sluice")]
            connection.send_headers(stream, head, end_stream=True)
            client.sendall(connection.data_to_send())

        def until(kind: type[h2.events.Event]) -> None:
            while not any(isinstance(event, kind) for event in events):
                data = client.recv(1 << 16)
                assert data
                events.extend(connection.receive_data(data))
                client.sendall(connection.data_to_send())

        get(1, "/api/report/large")
        until(h2.events.DataReceived)  # the flow control window then holds the rest back
        _truncate(tmp_path)
        connection.increment_flow_control_window(_SIZE)
        connection.increment_flow_control_window(_SIZE, stream_id=1)
        client.sendall(connection.data_to_send())
        until(h2.events.StreamReset)
        assert not any(isinstance(event, h2.events.StreamEnded) for event in events)
        events.clear()
        get(3, "/healthz")
        until(h2.events.StreamEnded)


def test_a_cut_answer_with_a_further_request_in_hand_does_not_hold_the_server(
    server: SluiceProcess, tmp_path: Path
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        request = b"GET /api/report/large HTTP/1.1\r\nHost: sluice\r\n\r\n"
        client.sendall(request + request)
        client.recv(1024)
        _truncate(tmp_path)
        while client.recv(1 << 16):
            pass
    server.wait_for_event("request", count=2)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - began < 10  # the drain timeout is 30 s
