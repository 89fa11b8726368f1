"""The framing of answers in HTTP/1.1 (RFC 9112 6): what goes out, as bytes. No Trio."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from app.http.dates import format_date
from app.wire.http1 import RequestHead

type Buffer = bytes | bytearray | memoryview
type Fields = Iterable[tuple[bytes, bytes]]

_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
# What an application says of these is understood, and said in the way that fits the request.
_FRAMING = frozenset((b"content-length", b"connection", b"transfer-encoding"))
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadAnswer(Exception):
    """The application's answer cannot be put into a message: its bug, told to the log."""


class Response:
    """One answer: its head, then its body in the framing that fits the request.

    keeps_alive: whether another request may follow; known once the head is made.
    until_close: the body's end is the connection's: a cut must not look like it.
    """

    __slots__ = ("_bodiless", "_chunked", "_head", "_left", "_trailers", "keeps_alive", "until_close")

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._chunked = False
        self._bodiless = False
        self._left: int | None = None
        self._trailers = False
        self.keeps_alive = head.keep_alive
        self.until_close = False

    def begin(self, status: int, fields: Fields, *, size: int | None, close: bool, trailers: bool) -> bytes:
        """The head. size: of the whole body, where it is known though the fields don't say it.

        close: no further request is taken. trailers: may follow the body.
        *Errors*: BadAnswer, for what would be another message than was meant.
        """
        if not 200 <= status <= 999:
            raise BadAnswer(f"{status} is no status of an answer")
        lines = [_LINES.get(status) or b"HTTP/1.1 %d " % status]
        length: int | None = None
        dated = False
        for given, value in fields:
            name = given.lower()
            if name in _FRAMING:
                if name == b"content-length":
                    length = _length(value, length)
                elif name == b"connection":
                    close = close or b"close" in value.lower()
                continue
            dated = dated or name == b"date"
            lines.append(b"%b: %b" % (name, value))
        if not dated:
            lines.append(_date_line())
        lines += self._frame(status, length, size, trailers=trailers)
        self.keeps_alive = self._head.keep_alive and not close and not self.until_close
        if not self.keeps_alive:
            lines.append(b"connection: close")
        elif self._head.version == "1.0":
            lines.append(b"connection: keep-alive")
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
            raise BadAnswer("a line break in a header field of the answer")
        return head + b"\r\n\r\n"

    def body(self, data: Buffer) -> Sequence[Buffer]:
        """The buffers that carry ``data``; none where the answer has no body, as to a HEAD.

        *Errors*: BadAnswer, past the announced length.
        """
        before, after = self.frame_of(len(data))
        if before is None:
            return ()
        return (before, data, after) if before else (data,)

    def frame_of(self, size: int) -> tuple[bytes | None, bytes]:
        """What goes before and after ``size`` bytes of body; None where none of it may be sent."""
        if self._bodiless or not size:
            return None, b""
        if self._left is not None:
            if size > self._left:
                raise BadAnswer("the answer's body is longer than its Content-Length")
            self._left -= size
        return (b"%x\r\n" % size, b"\r\n") if self._chunked else (b"", b"")

    @property
    def whole(self) -> bool:
        """Whether nothing is left of the body that the head announces; False where it announces no length."""
        return self._bodiless or self._left == 0

    def end(self, trailers: Fields = ()) -> bytes:
        """The end of the body. *Errors*: BadAnswer, where it is shorter than was announced."""
        if self._left and not self._bodiless:
            raise BadAnswer("the answer's body is shorter than its Content-Length")
        if not self._chunked or self._bodiless:
            return b""
        lines = [b"%b: %b\r\n" % (name.lower(), value) for name, value in trailers if self._trailers]
        end = b"".join(lines)
        if end.count(b"\n") != len(lines) or end.count(b"\r") != len(lines) or b"\0" in end:
            raise BadAnswer("a line break in a trailer field of the answer")
        return b"0\r\n%b\r\n" % end

    def _frame(self, status: int, length: int | None, size: int | None, *, trailers: bool) -> list[bytes]:
        """RFC 9112 6.1 to 6.3. An answer to HEAD says what one to GET would."""
        # Anew, for an answer before this one may have been a bad one.
        self._left, self._chunked, self.until_close = None, False, False
        self._bodiless = self._head.method == "HEAD" or status in {204, 304}
        if status == 204:
            return []
        if length is None and (size or not self._bodiless):  # a body left out says nothing of its size (RFC 9110 8.6)
            length = size
        if length is not None and not (trailers and self._head.wants_trailers):
            self._left = length
            return [b"content-length: %d" % length]
        if status == 304:
            return []
        if self._head.version == "1.0":
            self.until_close = not self._bodiless
            return []
        self._chunked, self._trailers = True, trailers and self._head.wants_trailers
        return [b"transfer-encoding: chunked"]


def _length(value: bytes, before: int | None) -> int:
    if not value.isdigit() or before not in {None, int(value)}:
        raise BadAnswer("the answer's Content-Length is no number, or two")
    return int(value)


_date: tuple[int, bytes] = (0, b"")


def _date_line() -> bytes:
    """Made once a second."""
    global _date  # noqa: PLW0603 - a clock is the process's
    now = int(time.time())
    if _date[0] != now:
        _date = (now, b"date: " + format_date(now).encode())
    return _date[1]
