"""The names of ASGI (https://asgi.readthedocs.io), as types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of that lower-case name; several fields are joined by a comma (RFC 9110 5.3); None without any."""
    return b", ".join(values) if (values := [value for given, value in scope["headers"] if given == name]) else None


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """What an answer's headers say of its length; None where they don't."""
    return next((int(value) for name, value in headers if name.lower() == b"content-length"), None)
