"""The loads of our own, where they decide; and one of them against a real socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.bench import client


def test_a_head_is_read_once_it_is_complete() -> None:
    whole = b"HTTP/1.1 206 Partial Content\r\ncontent-LENGTH:  12 \r\nX: a:b\r\n\r\n"
    assert [client.parse_head(whole[:size]) for size in range(len(whole))] == [None] * len(whole)
    assert client.parse_head(whole + b"body") == client.Head(206, 12, len(whole))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert client.parse_head(chunked) == client.Head(200, None, len(chunked))


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1\r\nContent-Length: 1\r\n\r\n", b"\r\n\r\n"])
def test_an_answer_without_status_or_length_ends_the_load(head: bytes) -> None:
    with pytest.raises(client.LoadError):
        client.parse_head(head)


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [client.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert client.percentile([7.0], 0.5) == client.percentile([7.0], 0.99) == 7


@contextmanager
def _answering(*answers: bytes) -> Generator[int]:
    """A port where the first connection's requests get these answers, one each, and then the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                for answer in answers:
                    if connection.recv(4096):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def _download(port: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.load", "download", str(port), "/", "--seconds", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"], "status 500"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345678"], "closed with 1 bytes to come"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789", b""], "closed before an answer"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], "an answer in chunks"),
    ],
)
def test_a_download_tells_what_went_wrong(answers: list[bytes], problem: str) -> None:
    with _answering(*answers) as port:
        assert [found.startswith(f"LoadError: {problem}") for found in _download(port)["problems"]] == [True]


def test_a_download_counts_bodies_and_waits() -> None:
    body = bytes(10_000_000)
    with _answering(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) + 1}\r\n\r\n".encode() + body, b"") as port:
        # One byte is never sent, so that the load lasts for its time.
        found = _download(port)
    assert found["problems"] == []
    assert found["bytes"] == len(body)
    assert 0 < found["first_byte_ms"] <= found["first_byte_max_ms"] < 500
    assert "p50_ms" not in found  # none was whole
