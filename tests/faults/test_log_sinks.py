"""A log that cannot be written is no reason to stop serving, nor to end otherwise than in order."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.traffic import RawClient, ask, refuses, wait_until
from tests.mariadb import free_port
from tests.processes import HYPERCORN, SERVE, command_environment

type Sink = Literal["full", "closed pipe", "closed"]


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
    try:
        wait_until(lambda: not refuses(port), "it listens", seconds=40)
        yield process
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
