"""Hypercorn's request, mended: its answer is what the application announced, or is seen to be none (RFC 9113 8.1.1)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.utils import UnexpectedMessageError

from app.errors import SluiceError
from app.wire.asgi import Message
from app.wire.fields import TOKEN, Field
from app.wire.refusal import NO_REQUEST, no_answer, refuse
from app.wire.response import BadAnswer, Fields, Response

_NAME = re.compile(TOKEN)
_FORBIDDEN = re.compile(rb"[\0\r\n]")
# They say how the connection of HTTP/1.1 goes on (RFC 9113 8.2.2).
_OF_THE_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te")
)


class HttpStream(HTTPStream):
    """One request, of HTTP/2.

    The head of its answer waits for the first of its body, and is judged before it leaves. Where an answer fails
    before that, another may be given; one that fails later is left without its end, and its stream is reset.

    *Errors* of `app_send`: BadAnswer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._start: Message | None = None
        self._framing = Response(NO_REQUEST)

    @property
    def started(self) -> bool:
        return self.state is not ASGIHTTPState.REQUEST

    @property
    def whole(self) -> bool:
        """Whether all has been sent that the head announces, whether its application knows that or not."""
        return self.started and self._framing.whole

    async def app_send(self, message: Any) -> None:
        if message is None:
            await self.end(no_answer())
            return
        match message["type"]:
            case "http.response.start" if not self.started:
                self._start = message
            case "http.response.body" if self.started or self._start is not None:
                await self._send_body(message)
            case "http.response.trailers" if self.started or self._start is not None:
                fields = _checked(message.get("headers", ()))
                if not self.started:
                    await self._send_body({"type": "http.response.body"})
                await super().app_send(cast("Any", {**message, "headers": fields}))
            case "http.response.push" | "http.response.early_hint":
                await super().app_send(message)
            case kind:
                raise UnexpectedMessageError(self.state, str(kind))

    async def end(self, error: SluiceError) -> None:
        """Its application has ended. error: what its client is told where nothing was sent."""
        if self.closed:
            return
        if not self.started:
            answer = refuse(error, self.client)
            length = (b"content-length", b"%d" % len(answer.body))
            self._start = {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [*answer.fields, length],
            }
            await self._send_body({"type": "http.response.body", "body": answer.body})
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_body(self, message: Message) -> None:
        head = None if self.started else cast("Message", self._start)
        fields: list[Field] = []
        if head is not None:
            fields = _checked(head.get("headers", ()))
            self._framing = Response(replace(NO_REQUEST, method=self.scope["method"]))
            self._framing.begin(head["status"], fields, size=None, close=False, trailers=False)
        self._framing.frame_of(len(message.get("body", b"")))
        if not message.get("more_body", False):
            self._framing.end()
        # Nothing else runs before this is in the stream's buffer: `whole` is never said too early.
        if head is not None:
            await super().app_send(cast("Any", {**head, "headers": fields}))
        await super().app_send(cast("Any", message))


def _checked(fields: Fields) -> list[Field]:
    """The fields of an answer, as HTTP/2 has them. *Errors*: BadAnswer."""
    checked: list[Field] = []
    for given, value in fields:
        name = bytes(given).lower()
        if not _NAME.fullmatch(name) or _FORBIDDEN.search(value):
            raise BadAnswer("no name or no value of a header field of the answer")
        if name not in _OF_THE_CONNECTION:
            checked.append((name, bytes(value).strip(b" \t")))
    return checked
