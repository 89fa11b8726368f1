"""Sluice as a user runs it: commands in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
SERVE = [PYTHON, "-m", "app", "serve"]
HYPERCORN = [str(Path(PYTHON).with_name("hypercorn")), "-c", f"file:{ROOT}/deploy/hypercorn.py", "app.asgi:app"]

_START_SECONDS = 40
_OURS = ("SLUICE_", "DB_", "OTEL_")


def command_environment(folder: Path, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of this process, without settings of Sluice but those given; data below ``folder``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # Where other tests have the processors, a loop that is not on one is no finding.
    ours = {"HOST": "127.0.0.1", "PORT": "0", "SLUICE_DATA_DIR": str(folder), "SLUICE_STALL_WARN": "0"}
    return kept | ours | (extra or {})


def run(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """``python -m app ARGUMENTS`` to its end."""
    return subprocess.run(
        [PYTHON, "-m", "app", *arguments],
        env=command_environment(folder, extra),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class SluiceProcess:
    """A running server. ``url``: where it answers. Its log is what it wrote to standard error."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log

    @property
    def url(self) -> str:
        running = next(line["event"] for line in self.log() if line["event"].startswith("Running on "))
        return running.split()[2]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stderr(self) -> str:
        return self._log.read_text()

    def log(self) -> list[dict[str, Any]]:
        """Its lines as JSON; a line that is none fails the test, for nothing else may be on standard error."""
        whole, _, _ = self.stderr().rpartition("\n")  # behind it is what is just being written
        return [json.loads(line) for line in whole.splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == event]

    def workers(self) -> list[int]:
        """The serving processes that Hypercorn started."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.stderr()}") from None

    def wait_for_event(self, event: str, seconds: float = 10, count: int = 1) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while len(found := self.events(event)) < count:
            assert time.monotonic() < deadline, f"no {event!r} in the log:\n{self.stderr()}"
            time.sleep(0.02)
        return found


@contextmanager
def running(
    folder: Path, command: list[str] | None = None, *, workers: int = 1, **extra: str
) -> Generator[SluiceProcess]:
    """A server that answers; killed with its children at the end if it still runs."""
    command = command or SERVE
    if command is HYPERCORN:
        command = [*command, "-w", str(workers)]
    log = folder / f"log-{time.monotonic_ns()}"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, env=command_environment(folder, extra), cwd=folder, stderr=stderr, start_new_session=True
        )
    server = SluiceProcess(process, log)
    try:
        _wait_until_it_answers(server, workers)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_it_answers(server: SluiceProcess, workers: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while sum(line.count("Running on ") for line in server.stderr().splitlines()) < workers:
        assert server.process.poll() is None, f"it ended:\n{server.stderr()}"
        assert time.monotonic() < deadline, f"it did not start:\n{server.stderr()}"
        time.sleep(0.02)
    httpx.get(f"{server.url}/healthz").raise_for_status()
