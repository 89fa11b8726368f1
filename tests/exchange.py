"""One HTTP/1.1 request exactly as it is given, dots and percent signs included, and its answer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_SECONDS = 60

type Fields = dict[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """Status, header fields by lower-case name (those of one name joined by a comma), and the body as it came."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Any:
        assert self.fields["content-type"] == "application/problem+json"
        return json.loads(self.body)


class Connection:
    """A connection that stays open from one request to the next. A body that ends too early is an error."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)

    def __enter__(self) -> Connection:
        self._connection.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, fields: Fields = (), body: bytes | None = None) -> Answer:
        """``fields`` may name ``Host``, which is otherwise added, and so is the length of a ``body``."""
        pairs = list(fields.items()) if isinstance(fields, dict) else list(fields)
        named = {name.lower() for name, _ in pairs}
        self._connection.putrequest(method, path, skip_host="host" in named, skip_accept_encoding=True)
        for name, value in pairs:
            self._connection.putheader(name, value)
        if body is not None:
            self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body)
        response = self._connection.getresponse()
        joined: dict[str, str] = {}
        for name, value in response.getheaders():
            joined[name.lower()] = f"{joined[name.lower()]}, {value}" if name.lower() in joined else value
        return Answer(response.status, joined, response.read())

    @property
    def open(self) -> bool:
        """Whether the server has left it open after its last answer."""
        return self._connection.sock is not None


def ask(port: int, method: str, path: str, fields: Fields = (), body: bytes | None = None) -> Answer:
    """One request on a connection of its own."""
    with Connection(port) as connection:
        return connection.ask(method, path, fields, body)
