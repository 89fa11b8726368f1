"""A log that cannot be written, or is not read, is no reason to stop serving, nor to end otherwise than in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.faults.traffic import RawClient, ask, refuses, wait_until
from tests.mariadb import free_port
from tests.processes import HYPERCORN, SERVE, command_environment
from tests.telemetry.scraping import scrape

type Sink = Literal["full", "closed pipe", "closed"]

# Of lines with some 240 bytes, twice as many as the pipe (64 KiB) and the sink (1 MiB) hold.
_PIPELINED, _ROUNDS = 250, 40


@contextmanager
def _standard_error(sink: Sink) -> Generator[int | None]:
    """What cannot be written to. "closed pipe": with nobody at its other end."""
    if sink == "closed":
        yield None
        return
    if sink == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reads, descriptor = os.pipe()
        os.close(reads)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _running(folder: Path, command: list[str], sink: Sink, port: int) -> Generator[subprocess.Popen[bytes]]:
    if command is HYPERCORN:
        command = [*command, "-w", "1"]
    if sink == "closed":
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    environment = command_environment(folder, {"PORT": str(port)})
    with _standard_error(sink) as stderr:
        process = subprocess.Popen(command, env=environment, cwd=folder, stderr=stderr, start_new_session=True)
    with _listening(process, port):
        yield process


@contextmanager
def _listening(process: subprocess.Popen[bytes], port: int) -> Generator[None]:
    try:
        wait_until(lambda: not refuses(port), "it listens", seconds=40)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("sink", "command"),
    [("full", SERVE), ("full", HYPERCORN), ("closed pipe", HYPERCORN), ("closed", SERVE)],
    ids=["full-serve", "full-hypercorn", "closed pipe-hypercorn", "closed-serve"],
)
def test_a_server_that_cannot_write_its_log_serves_and_ends_in_order(
    sink: Sink, command: list[str], folder: Path
) -> None:
    port = free_port()
    with _running(folder, command, sink, port) as process:
        for _ in range(3):
            head, _ = ask(port, "/healthz")
            assert head.status == 200
        head, _ = ask(port, "/nothing")  # which has a line of the log as well
        assert head.status == 404
        with RawClient(port) as client:
            client.send(b"no request\r\n\r\n")
            assert client.read_head().status == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert refuses(port)


def _is_request(line: dict[str, Any]) -> bool:
    return line["event"] == "request"


def _ask_many(port: int) -> None:
    """More than the pipe and the server's memory take of lines; each is answered."""
    with RawClient(port) as client:
        for _ in range(_ROUNDS):
            client.send(b"GET /healthz?%b HTTP/1.1\r\nHost: sluice\r\n\r\n" % (b"x" * 20) * _PIPELINED)
            for _ in range(_PIPELINED):
                assert client.answer()[0].status == 200


@pytest.mark.parametrize("command", [SERVE, HYPERCORN], ids=["serve", "hypercorn"])
def test_a_server_whose_log_nobody_reads_serves_and_tells_what_it_dropped(command: list[str], folder: Path) -> None:
    port = free_port()
    reads, writes = os.pipe()
    arguments = [*command, "-w", "1"] if command is HYPERCORN else command
    environment = command_environment(folder, {"PORT": str(port)})
    process = subprocess.Popen(arguments, env=environment, cwd=folder, stderr=writes, start_new_session=True)
    os.close(writes)
    with _listening(process, port), os.fdopen(reads, "rb") as log:
        _ask_many(port)
        # From now on somebody reads; the server is told to end only once it has said what is missing, or would have.
        lines = [json.loads(log.readline())]
        while lines[-1]["event"] != "lines dropped" and sum(map(_is_request, lines)) < _PIPELINED * _ROUNDS:
            lines.append(json.loads(log.readline()))
        counted = scrape(port).value("sluice_log_dropped_total")  # a request more
        process.send_signal(signal.SIGTERM)
        lines += map(json.loads, log)  # to the end, which is in order
        assert process.wait(30) == 0
    assert lines[-1]["event"] == "stopped" or command is HYPERCORN
    written = sum(map(_is_request, lines))
    dropped = sum(line["lines"] for line in lines if line["event"] == "lines dropped")
    assert dropped == counted > 0
    assert written + dropped == _PIPELINED * _ROUNDS + 1
    stamps = [datetime.fromisoformat(line["timestamp"]) for line in lines if _is_request(line)]
    assert stamps == sorted(stamps)


def test_a_server_whose_log_is_never_read_ends_all_the_same(folder: Path) -> None:
    port = free_port()
    reads, writes = os.pipe()
    environment = command_environment(folder, {"PORT": str(port)})
    process = subprocess.Popen(SERVE, env=environment, cwd=folder, stderr=writes, start_new_session=True)
    os.close(writes)
    try:
        with _listening(process, port):
            _ask_many(port)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    finally:
        os.close(reads)
