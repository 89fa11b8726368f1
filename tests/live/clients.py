"""Clients of a running server: server-sent events over a socket, and a WebSocket."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, RejectConnection, Request, TextMessage

from tests.exchange import Answer, ask

_SECONDS = 20
JSON = {"Content-Type": "application/json"}


def publish(port: int, topic: str, data: object, query: str = "", **fields: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return ask(port, "POST", f"/api/live/{topic}{query}", JSON | named, json.dumps(data).encode())


class Feed:
    """Server-sent events as they come. retry, last: what was said last of coming again."""

    def __init__(self, port: int, path: str, fields: dict[str, str]) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        self._connection.request("GET", path, headers=fields)
        self.response: HTTPResponse = self._connection.getresponse()
        self.retry: int | None = None
        self.last: str | None = None
        if self.response.status == 200:
            # Only then it is subscribed.
            said = dict(line.split(": ", 1) for line in self._block())
            self.retry, self.last = int(said["retry"]), said.get("id")

    def events(self) -> Iterator[tuple[str | None, str, Any]]:
        """Id, type and data of each, until the server ends it."""
        while lines := self._block():
            said = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            if "retry" in said:
                self.retry = int(said["retry"])
            if "data" in said:
                self.last = said.get("id", self.last)
                yield said.get("id"), said["event"], json.loads(said["data"])

    def read(self, count: int) -> list[Any]:
        """Of so many events the data."""
        events = self.events()
        return [next(events)[2] for _ in range(count)]

    def _block(self) -> list[str]:
        lines: list[str] = []
        while line := self.response.readline():
            text = line.decode().rstrip("\n")
            if not text:
                return lines
            lines.append(text)
        return lines

    def close(self) -> None:
        # The answer has no end: whoever asks for it would wait.
        with suppress(OSError):
            if self._connection.sock is not None:
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self._connection.close()


@contextmanager
def feed(port: int, topic: str, query: str = "", **fields: str) -> Generator[Feed]:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    opened = Feed(port, f"/api/live/{topic}{query}", named)
    try:
        yield opened
    finally:
        opened.close()


class Socket:
    """A WebSocket. refused: the status with which its handshake was, or None."""

    def __init__(self, port: int, path: str, fields: dict[str, str]) -> None:
        self._raw = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        extra = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
        self.say(Request(f"127.0.0.1:{port}", path, extra_headers=extra))
        event = self.next()
        self.refused = event.status_code if isinstance(event, RejectConnection) else None
        assert self.refused is not None or isinstance(event, AcceptConnection)

    def say(self, event: Event) -> None:
        self._raw.sendall(self._ws.send(event))

    def next(self) -> Event:
        while not self._events:
            data = self._raw.recv(65536)
            self._ws.receive_data(data or None)
            self._events += self._ws.events()
        event = self._events.pop(0)
        if isinstance(event, Ping):
            self.say(event.response())
            return self.next()
        return event

    def message(self) -> Any:
        text = ""
        while True:
            event = self.next()
            assert isinstance(event, TextMessage), event
            text += event.data
            if event.message_finished:
                return json.loads(text)

    def send(self, message: object) -> None:
        self.say(TextMessage(message if isinstance(message, str) else json.dumps(message)))

    def closed(self) -> int:
        """The code with which the server closes, next."""
        event = self.next()
        assert isinstance(event, CloseConnection), event
        with suppress(OSError):
            self.say(event.response())
        return int(event.code)

    def close(self) -> None:
        self._raw.close()


@contextmanager
def websocket(port: int, topic: str, query: str = "", **fields: str) -> Generator[Socket]:
    opened = Socket(port, f"/api/live/{topic}/ws{query}", fields)
    try:
        yield opened
    finally:
        opened.close()
