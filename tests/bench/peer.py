"""A peer: a server or a tool that is built once, then started anew for each measurement."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.flow.processes import spare_cpus
from tests.bench.ground import Ground
from tests.bench.process_group import has_ended, process_group, tail
from tests.mariadb import free_port

SOURCES = Path(__file__).parent / "peers"
IO_THREADS = "8"  # for reading files, the same for each peer that has such a setting
COMPUTE_WORKERS = spare_cpus()  # processes or threads that compute, the same for each peer that does

_START_SECONDS = 40


@dataclass(frozen=True)
class Server:
    """A peer that runs and answers on 127.0.0.1."""

    pid: int
    port: int

    def get(self, path: str, seconds: float = 10) -> tuple[int, bytes]:
        """Status and body."""
        return self.ask("GET", path, seconds)

    def ask(self, method: str, path: str, seconds: float = 10, posted: str = "") -> tuple[int, bytes]:
        """posted: JSON, where there is any."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            kind = {"Content-Type": "application/json"} if posted else {}
            connection.request(method, path, posted or None, kind)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Peer[Running](ABC):
    """One program with one configuration."""

    name: str
    title: str

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    @abstractmethod
    def build(self) -> None:
        """Makes it startable; quick the second time. *Errors*: RuntimeError."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Of what it is made of, once it is built."""

    @abstractmethod
    def running(self) -> AbstractContextManager[Running]:
        """It, started anew; stopped at the end. *Errors*: RuntimeError where it does not start."""


class ServerPeer(Peer[Server]):
    """A server with one worker."""

    @abstractmethod
    def command(self, port: int) -> list[str]: ...

    @abstractmethod
    def environment(self, port: int) -> dict[str, str]:
        """The whole of it."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where it runs."""

    @contextmanager
    def running(self) -> Generator[Server]:
        """It answers."""
        port = free_port()
        log = self.ground.folder / f"{self.name}-{time.monotonic_ns()}.log"
        with (
            log.open("wb") as output,
            process_group(self.command(port), self.folder, output, self.environment(port)) as process,
        ):
            server = Server(process.pid, port)
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(server):
                if has_ended(process) or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} did not start:\n{tail(log)}")
                time.sleep(0.05)
            yield server


def told(command: Sequence[str]) -> str:
    """What a program says of itself, to standard output or error."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, check=True)
    return done.stdout.strip()


@contextmanager
def once(built: Path, source: Path) -> Generator[bool]:
    """Whether to build, as ``source`` is another than at the last build that came to its end."""
    stamp = built / ".built"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    needed = not stamp.exists() or stamp.read_text() != digest
    if needed:
        stamp.unlink(missing_ok=True)
    yield needed
    stamp.write_text(digest)


def _answers(server: Server) -> bool:
    """Whether anything answers there, whatever it says."""
    try:
        server.get("/", seconds=2)
    except (OSError, http.client.HTTPException):
        return False
    return True
