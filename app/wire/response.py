"""The framing of answers in HTTP/1.1 (RFC 9112 6): what goes out, as bytes. No Trio."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from app.http.dates import format_date
from app.wire.http1 import RequestHead

type Buffer = bytes | bytearray | memoryview
type Fields = Iterable[tuple[bytes, bytes]]

_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
# What an application says of these is understood, and said in the way that fits the request.
_FRAMING = frozenset((b"content-length", b"connection", b"transfer-encoding"))
_BODILESS = frozenset((204, 304))
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

    def begin(
        self, status: int, fields: Fields, *, size: int | None, close: bool, trailers: bool, own: bytes = b""
    ) -> bytes:
        """The head. size: of the whole body, where it is known though the fields don't say it.

        close: no further request is taken. trailers: may follow the body. own: lines of further fields, none of them
        about the message or its date.
        *Errors*: BadAnswer, for what would be another message than was meant.
        """
        section = _section(fields)
        frame = self._frame(status, section.length, size, trailers=trailers)
        return self._complete(_begun(status, section, frame), own, close=close)

    def _complete(self, begun: _Begun, own: bytes, *, close: bool) -> bytes:
        """The head that was ``begun``."""
        self.keeps_alive = self._head.keep_alive and not (close or begun.closes or self.until_close)
        if not self.keeps_alive:
            end = b"connection: close\r\n\r\n"
        elif self._head.version == "1.0":
            end = b"connection: keep-alive\r\n\r\n"
        else:
            end = b"\r\n"
        return b"".join((begun.text, own, b"" if begun.dated else _date_line(), end))

    def at_once(self, status: int, fields: Fields, data: Buffer, *, close: bool, own: bytes = b"") -> Sequence[Buffer]:
        """An answer whose body is ``data``, all of it. fields: what they come to is remembered where they are a tuple,
        which an application gives again and again. own: as for `begin`. *Errors*: BadAnswer."""
        size = len(data)
        again = isinstance(fields, tuple)
        if size and again and self._head.method != "HEAD" and status not in _BODILESS:
            self._left, self._bodiless, self._chunked, self.until_close = 0, False, False, False
            head = self._complete(_remembered(status, fields, size), own, close=close)
            return (head, data)
        head = self.begin(status, fields, size=size, close=close, trailers=False, own=own)
        if self._bodiless:
            return (head,)
        if self._left != len(data):  # it was announced, or is by ``size``
            raise BadAnswer("the answer's body is not as long as its Content-Length")
        self._left = 0
        return (head, data) if data else (head,)

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
        return b"0\r\n%b\r\n" % _joined(lines)

    def _frame(self, status: int, length: int | None, size: int | None, *, trailers: bool) -> bytes:
        """RFC 9112 6.1 to 6.3. An answer to HEAD says what one to GET would."""
        # Anew, for an answer before this one may have been a bad one.
        self._left, self._chunked, self.until_close = None, False, False
        self._bodiless = status in _BODILESS or self._head.method == "HEAD"
        if status == 204:
            return b""
        if length is None and (size or not self._bodiless):  # a body left out says nothing of its size (RFC 9110 8.6)
            length = size
        if length is not None and not (trailers and self._head.wants_trailers):
            self._left = length
            return b"content-length: %d\r\n" % length
        if status == 304:
            return b""
        if self._head.version == "1.0":
            self.until_close = not self._bodiless
            return b""
        self._chunked, self._trailers = True, trailers and self._head.wants_trailers
        return b"transfer-encoding: chunked\r\n"


@dataclass(slots=True)
class _Section:
    """What an application's fields come to: their lines without those of the framing, and what they say of it."""

    text: bytes
    length: int | None
    closes: bool
    dated: bool


def _section(fields: Fields) -> _Section:
    """*Errors*: BadAnswer."""
    lines: list[bytes] = []
    length: int | None = None
    closes = dated = False
    for given, value in fields:
        name = given.lower()
        if name in _FRAMING:
            if name == b"content-length":
                length = _length(value, length)
            elif name == b"connection":
                closes = closes or b"close" in value.lower()
            continue
        dated = dated or name == b"date"
        lines.append(b"%b: %b\r\n" % (name, value))
    return _Section(_joined(lines), length, closes, dated)


def _joined(lines: list[bytes]) -> bytes:
    """*Errors*: BadAnswer, where one of them is more than a line."""
    text = b"".join(lines)
    if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines) or b"\0" in text:
        raise BadAnswer("a line break in a field of the answer")
    return text


@dataclass(slots=True)
class _Begun:
    """The head of an answer, but for what is its own and where it ends."""

    text: bytes
    closes: bool
    dated: bool


def _begun(status: int, section: _Section, frame: bytes) -> _Begun:
    """*Errors*: BadAnswer."""
    if not 200 <= status <= 999:
        raise BadAnswer(f"{status} is no status of an answer")
    line = _LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return _Begun(line + section.text + frame, section.closes, section.dated)


@lru_cache(maxsize=1024)
def _remembered(status: int, fields: Fields, size: int) -> _Begun:
    """Of a whole answer with a body of ``size`` bytes. *Errors*: BadAnswer."""
    section = _section(fields)
    if section.length not in {None, size}:
        raise BadAnswer("the answer's body is not as long as its Content-Length")
    return _begun(status, section, b"content-length: %d\r\n" % size)


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
        _date = (now, b"date: %b\r\n" % format_date(now).encode())
    return _date[1]
