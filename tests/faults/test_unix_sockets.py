"""The production command on a socket of the file system, as a reverse proxy on the same machine uses it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.conftest import LARGE_MIB
from tests.faults.traffic import wait_until
from tests.processes import HYPERCORN, command_environment


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("sluice", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    path: str
    log: Path


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[_Server]:
    path, log = str(tmp_path / "sluice.sock"), tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*HYPERCORN, "-w", "1", "-b", f"unix:{path}"],
            env=command_environment(folder),
            cwd=folder,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Running on" in log.read_text(), "it runs", seconds=40)
        yield _Server(process, path, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_small_and_large_reports_come_over_a_unix_socket(server: _Server, folder: Path) -> None:
    connection = _UnixConnection(server.path)
    (large,) = [path for path in (folder / "reports").rglob("*.csv") if path.stat().st_size >= LARGE_MIB << 20]
    for _ in range(2):  # on one connection
        for user, least in (("test-user", 1000), ("large-report", LARGE_MIB << 20)):
            connection.request("GET", f"/api/report/{user}")
            answer = connection.getresponse()
            body = answer.read()
            assert (answer.status, int(answer.headers["content-length"])) == (200, len(body))
            assert len(body) >= least
            assert user == "test-user" or body == large.read_bytes()
    connection.request("GET", "/api/report/large-report", headers={"Range": "bytes=1000000-3999999"})
    answer = connection.getresponse()
    assert answer.status == 206
    assert answer.read() == large.read_bytes()[1_000_000:4_000_000]
    connection.close()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["outcome"], line["client"]) for line in requests] == [("ok", None)] * 5
    assert not [line for line in lines if "exception" in line]
