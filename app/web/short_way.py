"""The short way: routes that answer with a value are served here, in front of Quart and its machinery.

Everything else about a request (its id, limits, deadline, log, errors) is the boundary's, which is around both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import NoReturn

from quart import Quart

from app.errors import NotFound
from app.http.answers import Answer, FilePart, Posted, ShortPost, ShortRoute, Streamed
from app.http.fields import fields_of
from app.storage.open_files import BlobTruncated
from app.web.pulled import PulledBody, length_of
from app.wire.asgi import NOTHING, ROUTE, TRAILERS, WHOLE, ZERO_COPY, AsgiApp, Message, Receive, Scope, Send

# Up to here a file is read and sent with its head, beyond it is sent by the kernel or in chunks.
_SMALL_BYTES = 128 * 1024


class ShortWay:
    """Answers GET and HEAD of ``routes``, and POST of ``posts``; the rest goes to ``app``. most: see `PulledBody`."""

    def __init__(
        self, app: AsgiApp, routes: Sequence[ShortRoute], posts: Sequence[ShortPost] = (), most: int = 0
    ) -> None:
        self._app = app
        self._routes = routes
        self._posts = {post.path: post for post in posts}
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = scope["method"]
            if method in {"GET", "HEAD"}:
                path: str = scope["path"]
                for route in self._routes:
                    # A slash that the parameter has is percent-encoded, and then it is a part of it.
                    if path.startswith(route.prefix) and scope["raw_path"].count(b"/") == route.slashes:
                        parameter = path[len(route.prefix) :]
                        if parameter if route.parameter else not parameter:
                            scope[ROUTE] = route.template
                            fields = fields_of(scope["headers"], route.fields)
                            answer = await route.handler(method, parameter, fields, scope["query_string"])
                            await send_answer(scope, send, answer)
                            return
            elif method == "POST" and (post := self._posts.get(scope["path"])) is not None:
                scope[ROUTE] = post.path
                await send_answer(scope, send, await post.handler(self._posted(scope, receive, post)))
                return
            elif scope["raw_path"] == b"*":  # OPTIONS of the server itself (RFC 9110 9.3.7)
                await send({"type": WHOLE, "status": 204, "headers": [], "body": b""})
                return
        await self._app(scope, receive, send)

    def _posted(self, scope: Scope, receive: Receive, post: ShortPost) -> Posted:
        client = scope.get("client")
        fields = fields_of(scope["headers"], post.fields)
        return Posted(fields, PulledBody(receive, self._most), length_of(scope), client[0] if client else "")


def add_rules(application: Quart, routes: Sequence[ShortRoute], posts: Sequence[ShortPost] = ()) -> None:
    """Tells Quart of the routes, for what it says of all routes: which methods there are, and what is where."""

    def add(rule: str, method: str, meaning: str) -> None:
        async def answered_before(**_: str) -> NoReturn:
            raise NotFound("there is nothing at that path")  # one that only looks like the route once it is decoded

        answered_before.__doc__ = meaning
        application.add_url_rule(rule, f"short:{method} {rule}", answered_before, methods=[method])

    for route in routes:
        add(f"{route.prefix}<{route.parameter}>" if route.parameter else route.prefix, "GET", route.meaning)
    for post in posts:
        add(post.path, "POST", post.meaning)


async def send_answer(scope: Scope, send: Send, answer: Answer) -> None:
    """Sends ``answer``, and closes what it holds."""
    part = answer.body
    if not isinstance(part, FilePart):
        if isinstance(part, Streamed):
            await _send_streamed(scope, send, answer, part)
        else:
            await send({"type": WHOLE, "status": answer.status, "headers": answer.headers, "body": part})
        return
    file, start, stop = part.file, part.start, part.stop
    try:
        if scope["method"] != "HEAD" and stop - start <= _SMALL_BYTES:
            data = file.read_nowait(start, stop)
            if data is None:
                data = await file.read(start, stop)
            sending = send({"type": WHOLE, "status": answer.status, "headers": answer.headers, "body": data})
            if sending is not NOTHING:
                await sending
            return
        headers = [*answer.headers, (b"content-length", b"%d" % (stop - start))]
        if scope["method"] == "HEAD":
            await send({"type": WHOLE, "status": answer.status, "headers": headers, "body": b""})
        else:
            await _send_large(
                scope, send, {"type": "http.response.start", "status": answer.status, "headers": headers}, part
            )
    finally:
        file.close()


async def _send_streamed(scope: Scope, send: Send, answer: Answer, body: Streamed) -> None:
    head = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    if scope["method"] == "HEAD":
        await send(head)
        await send({"type": "http.response.body", "body": b"", "more_body": True})  # its length is not known
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    trailers = body.trailers if TRAILERS in scope["extensions"] else None
    async with body.chunks as chunks:
        await send(head if trailers is None else {**head, "trailers": True})
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    # Only now: whoever makes the chunks may fail also when the last one has been taken.
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    if trailers is not None:
        await send({"type": TRAILERS, "headers": trailers(), "more_trailers": False})


async def _send_large(scope: Scope, send: Send, head: Message, part: FilePart) -> None:
    if ZERO_COPY in scope["extensions"]:
        await send(head)
        size = part.stop - part.start
        try:
            await send({"type": ZERO_COPY, "file": part.file.descriptor, "offset": part.start, "count": size})
        except EOFError as error:
            raise BlobTruncated("the file became shorter while it was sent") from error
        return
    left = part.stop - part.start
    if scope["http_version"].startswith("1"):
        reading = part.file.chunks(part.start, part.stop)
    else:  # of a hundred answers that one connection may ask for, and take none of, not much is held
        reading = aclosing(part.file.pieces(part.start, part.stop, _SMALL_BYTES))
    async with reading as chunks:
        await send(head)
        async for chunk in chunks:
            left -= len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
