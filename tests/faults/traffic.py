"""Clients that do what a well-behaved HTTP library would not, and what they are made to wait for."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any

from app.settings import DatabaseSettings
from tests.mariadb import MariaDb

LOOKUP = "%FROM user_reports%"
"""How the look-up of a report shows in the server's process list."""

_SOCKET_SECONDS = 30
_NO_FIELDS: Mapping[str, str] = MappingProxyType({})
# Small, so that a client that does not read holds its server back before a large report is through.
_RECEIVE_BUFFER = 64 * 1024


@dataclass(frozen=True)
class Head:
    """The first lines of an answer; field names in lower case."""

    status: int
    fields: dict[str, str]


class RawClient:
    """One connection, from the address ``source``. It reads only what it is told to read."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.settimeout(_SOCKET_SECONDS)
        try:
            self._socket.bind((source, 0))
            self._socket.connect(("127.0.0.1", port))
        except OSError:
            self._socket.close()
            raise
        self._received = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def get(self, path: str, **fields: str) -> None:
        self.request("GET", path, fields)

    def post(self, path: str, body: bytes, **fields: str) -> None:
        """``body``, which is JSON."""
        given = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.request("POST", path, given | fields, body)

    def request(self, method: str, path: str, fields: Mapping[str, str] = _NO_FIELDS, body: bytes = b"") -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self.send(f"{method} {path} HTTP/1.1\r\nHost: sluice\r\n{lines}\r\n".encode() + body)

    def read_head(self) -> Head:
        while b"\r\n\r\n" not in self._received:
            data = self._socket.recv(1024)
            assert data, f"the connection was closed after {self._received!r}"
            self._received += data
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = (line.split(": ", 1) for line in lines)
        return Head(int(first.split()[1]), {name.lower(): value for name, value in fields})

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer where the connection ends before."""
        while len(self._received) < size:
            try:
                data = self._socket.recv(min(1 << 18, size - len(self._received)))
            except ConnectionResetError:
                data = b""
            if not data:
                break
            self._received += data
        data, self._received = self._received[:size], self._received[size:]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Up to ``mark`` and with it; fewer bytes where the connection ends before."""
        while mark not in self._received and (data := self._socket.recv(1024)):
            self._received += data
        end = self._received.find(mark) + len(mark) if mark in self._received else len(self._received)
        data, self._received = self._received[:end], self._received[end:]
        return data

    def answer(self) -> tuple[Head, Any]:
        """The head and the JSON of an answer; None where it has no content."""
        head = self.read_head()
        if head.status == 204:
            return head, None
        return head, json.loads(self.read(int(head.fields["content-length"])))

    def finish(self) -> None:
        """A FIN, and nothing is read any more."""
        self._socket.close()

    def half_close(self) -> None:
        """A FIN; what comes could still be read."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """An RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def ask(port: int, path: str, **fields: str) -> tuple[Head, Any]:
    """One request on a connection of its own."""
    with RawClient(port) as client:
        client.get(path, **fields)
        return client.answer()


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def turns_away(port: int) -> bool:
    """Whether a new connection is refused, or ended before it is answered."""
    try:
        with RawClient(port) as client:
            client.get("/healthz")
            return not client.read(1)
    except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
        return True


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


@contextmanager
def locked_reports(mariadb: MariaDb, settings: DatabaseSettings) -> Generator[None]:
    """Look-ups of reports wait for as long as this lasts."""
    with mariadb.connect(settings.name) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES user_reports WRITE")
        yield


@contextmanager
def waiting_lookup(mariadb: MariaDb, port: int, path: str = "/api/report/ada", **fields: str) -> Generator[RawClient]:
    """A client whose look-up the database is executing; for use within `locked_reports`."""
    with RawClient(port) as client:
        client.get(path, **fields)
        wait_until(lambda: mariadb.processes(LOOKUP), "the look-up reaches the database")
        yield client
