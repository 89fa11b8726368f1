"""Applications whose answers are none, or no more than a part of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from app.wire.asgi import WHOLE, Send
from tests.wire.serving import answer, end, part, send_file, start


async def _raise(send: Send) -> None:
    raise ValueError("no client's business")


async def _return(send: Send) -> None:
    pass


async def _only_start(send: Send) -> None:
    await start(send, (b"x-field", b"never sent"))


async def _start_and_raise(send: Send) -> None:
    await start(send, (b"x-field", b"never sent"))
    raise ValueError


def _with(*fields: tuple[bytes, bytes], body: bytes = b"", status: int = 200) -> Callable[[Send], Awaitable[None]]:
    async def app(send: Send) -> None:
        await answer(send, body, *fields, status=status)

    return app


def _whole_with(*fields: tuple[bytes, bytes], body: bytes = b"") -> Callable[[Send], Awaitable[None]]:
    async def app(send: Send) -> None:
        await send({"type": WHOLE, "status": 200, "headers": fields, "body": body})

    return app


async def _file_too_long(send: Send) -> None:
    await start(send, (b"content-length", b"1"))
    await send_file(send, Path(__file__), 0, 2)


NO_ANSWERS = {
    "raises": _raise,
    "returns": _return,
    "only a start": _only_start,
    "a start, then raises": _start_and_raise,
    "a line break in a value": _with((b"x-field", b"a\r\nX-Injected: 1")),
    "LF in a value": _with((b"x-field", b"a\nX-Injected: 1")),
    "CR in a value": _with((b"x-field", b"a\rX-Injected: 1")),
    "NUL in a value": _with((b"x-field", b"a\0")),
    "a line break in a name": _with((b"x-field: 1\r\nX-Injected", b"1")),
    "two lengths": _with((b"content-length", b"1"), (b"content-length", b"2"), body=b"a"),
    "a length that is none": _with((b"content-length", b"1, 1"), body=b"a"),
    "a negative length": _with((b"content-length", b"-1")),
    "too long": _with((b"content-length", b"1"), body=b"X-Injected: 1"),
    "too short": _with((b"content-length", b"100"), body=b"X-Injected: 1"),
    "whole, too long": _whole_with((b"content-length", b"1"), body=b"X-Injected: 1"),
    "whole, a line break": _whole_with((b"x-field", b"a\r\nX-Injected: 1")),
    "a file, too long": _file_too_long,
    "an interim status": _with(status=103),
    "no bytes": _with(("x-field", "text")),  # type: ignore[arg-type]
}


async def _too_much(send: Send) -> None:
    await start(send, (b"content-length", b"5"))
    await part(send, b"123")
    await part(send, b"456")


async def _too_little(send: Send) -> None:
    await start(send, (b"content-length", b"5"))
    await part(send, b"123")
    await end(send)


async def _fails_in_the_middle(send: Send) -> None:
    await start(send)
    await part(send, b"123")
    raise ValueError


async def _returns_in_the_middle(send: Send) -> None:
    await start(send)
    await part(send, b"123")


async def _bad_trailers(send: Send) -> None:
    await start(send, trailers=True)
    await end(send, b"123")
    await send({"type": "http.response.trailers", "headers": [(b"x-field", b"a\r\nb")]})


async def _no_trailers(send: Send) -> None:
    await start(send, trailers=True)
    await end(send, b"123")


CUT_ANSWERS = [
    _too_much,
    _too_little,
    _fails_in_the_middle,
    _returns_in_the_middle,
    _bad_trailers,
    _no_trailers,
]
