"""The least that an ASGI server can be asked to run: one request, one short answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

type _Message = MutableMapping[str, Any]

_BODY = b"Hello, World!"
_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", str(len(_BODY)).encode())]


async def app(
    scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        raise ValueError(f"nothing here speaks {scope['type']}")  # a server takes it that there is no lifespan
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY, "more_body": False})
