"""The loads that send files, against servers of a few lines."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bench.stand_in import CHUNKED, CONTENT, Serve, answering, chunk, cut, echo, endless, serving, swallow


def _run(kind: str, port: int, *options: object) -> dict[str, Any]:
    done = subprocess.run(_command(kind, port, *options), capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _command(kind: str, port: int, *options: object) -> list[str]:
    return [sys.executable, "-m", "tests.bench.load", kind, str(port), "/path", *map(str, options)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def test_a_file_goes_out_so_often_while_the_answer_comes(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with serving(echo) as port:
        found = _run("transform", port, "--file", source, "--repeat", 3, "--output", target)
    assert found["problems"] == []
    assert found["sent"] == found["bytes"] == 3 * len(CONTENT)
    assert 0 < found["first_byte_ms"] <= found["seconds"] * 1000
    assert found["mb_per_second"] == pytest.approx(found["sent"] / found["seconds"] / 1e6)
    assert target.read_bytes() == 3 * CONTENT


@pytest.mark.parametrize(
    ("serve", "problem"),
    [
        (answering(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno"), "LoadError: status 400: b'no'"),
        (answering(b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n"), "LoadError: status 201: b''"),
        (answering(CHUNKED + chunk(b"some") + b"0\r\n\r\nmore"), "LoadError: bytes behind the end of a body"),
        (cut, "LoadError: cut after 4 bytes"),
        (swallow, "LoadError: closed before an answer"),
    ],
)
def test_a_transform_tells_what_went_wrong(source: Path, serve: Serve, problem: str) -> None:
    with serving(serve) as port:
        assert _run("transform", port, "--file", source)["problems"] == [problem]


def test_an_answer_that_is_complete_too_early_is_none(source: Path) -> None:
    over = threading.Event()

    def serve(connection: socket.socket, _size: int) -> None:
        connection.sendall(CHUNKED + b"0\r\n\r\n")
        over.wait(20)

    with serving(serve) as port:
        try:
            found = _run("transform", port, "--file", source, "--repeat", 200)
        finally:
            over.set()
    assert [problem.startswith("LoadError: the answer ended when ") for problem in found["problems"]] == [True]


def test_a_transform_of_limited_time_may_becut(source: Path) -> None:
    with serving(endless) as port:
        found = _run("transform", port, "--file", source, "--repeat", 200, "--seconds", 0.3)
    assert found["problems"] == []
    assert found["bytes"] > len(CONTENT)
    assert found["seconds"] > 0.3


def test_a_slow_reader_takes_no_more_than_its_rate(source: Path) -> None:
    with serving(endless) as port:
        found = _run("transform", port, "--file", source, "--rate", 1e6, "--seconds", 1)
    assert found["problems"] == []
    assert found["bytes"] <= 1e6 * found["seconds"]


def test_a_slow_reader_of_a_slower_server_is_none(source: Path) -> None:
    over = threading.Event()

    def serve(connection: socket.socket, _size: int) -> None:
        connection.sendall(CHUNKED + chunk(bytes(1000)))
        over.wait(20)

    with serving(serve) as port:
        found = _run("transform", port, "--file", source, "--rate", 1e6, "--seconds", 0.3)
        over.set()
    assert [problem.startswith("the reader got 0% of") for problem in found["problems"]] == [True]


def test_a_slow_reader_reads_a_short_answer_to_its_end(source: Path) -> None:
    with serving(echo) as port:
        found = _run("transform", port, "--file", source, "--rate", 4e6)
    assert (found["problems"], found["bytes"]) == ([], len(CONTENT))


@pytest.mark.parametrize("status", [b"200 OK", b"201 Created"])
def test_a_file_is_stored(source: Path, status: bytes) -> None:
    with serving(answering(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")) as port:
        found = _run("put", port, "--file", source)
    assert (found["problems"], found["sent"], found["bytes"]) == ([], len(CONTENT), 2)


def test_a_file_that_is_not_stored_is_a_problem(source: Path) -> None:
    with serving(answering(b"HTTP/1.1 412 No\r\nContent-Length: 0\r\n\r\n")) as port:
        assert _run("put", port, "--file", source)["problems"] == ["LoadError: status 412: b''"]


def test_an_answer_without_a_known_length_is_read(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with serving(answering(CHUNKED + chunk(b"one\n") + chunk(b"two\n") + b"0\r\n\r\n")) as port:
        found = _run("get", port, "--output", target)
    assert (found["problems"], found["bytes"], target.read_bytes()) == ([], 8, b"one\ntwo\n")
    assert found["mb_per_second"] > 0
    assert found["first_byte_ms"] > 0


def test_a_load_that_is_ended_before_its_answer_has_a_problem(source: Path) -> None:
    over = threading.Event()

    def serve(_connection: socket.socket, _size: int) -> None:
        begun.set()
        over.wait(20)

    begun = threading.Event()
    with serving(serve) as port, _running("transform", port, "--file", source) as load:
        assert begun.wait(20)
        load.send_signal(signal.SIGTERM)
        said, _ = load.communicate(timeout=20)
        over.set()
    assert json.loads(said)["problems"] == ["the load was ended before the answer was"]


def test_a_burden_sends_request_after_request_until_it_is_ended(source: Path) -> None:
    requests = threading.Semaphore(0)

    def serve(connection: socket.socket, size: int) -> bool:
        echo(connection, size)
        requests.release()
        return True

    with serving(serve) as port, _running("posting", port, "--file", source, "--connections", 2) as load:
        assert load.stdout is not None
        assert json.loads(load.stdout.readline()) == {"ready": True}
        for _ in range(6):
            assert requests.acquire(timeout=20)
        load.send_signal(signal.SIGTERM)
        found = json.loads(load.communicate(timeout=20)[0])
    assert found["problems"] == []
    assert found["bytes"] > 4 * len(CONTENT)
    assert found["answers"] >= 4  # each of the two may have been in the middle of another one
    assert found["seconds"] > 0


def test_what_is_posted_may_have_a_media_type(source: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        with _running("posting", listener.getsockname()[1], "--file", source, "--type", "application/json"):
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.settimeout(20)
                head = list(iter(lines.readline, b"\r\n"))
    assert head[0] == b"POST /path HTTP/1.1\r\n"
    assert b"Content-Type: application/json\r\n" in head


def test_a_burden_that_is_refused_has_a_problem(source: Path) -> None:
    with serving(answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")) as port:
        assert _run("posting", port, "--file", source)["problems"] == ["LoadError: status 503: b''"]


@contextmanager
def _running(kind: str, port: int, *options: object) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen(_command(kind, port, *options), stdout=subprocess.PIPE, text=True) as load:
        try:
            yield load
        finally:
            load.kill()
