"""Loads that send a file and read what comes for it meanwhile, on one thread and without copying what is sent."""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tests.bench.chunks import ChunkedBody
from tests.bench.client import (
    HEAD_BYTES,
    PATIENCE_SECONDS,
    SLOW_TICK_SECONDS,
    SLOW_WINDOW_BYTES,
    Ending,
    Head,
    LoadError,
    parse_head,
    ready,
)

_SENT_AT_ONCE = 1 << 20
_SENT_A_TICK = 64  # times that, at most, by one that reads slowly
# What comes is copied here, again and again: small enough to stay in a processor's cache.
_RECEIVED = memoryview(bytearray(256 * 1024))


class Answer:
    """One answer, as it comes. size: bytes of its body so far. output: where they go, if anywhere.

    *Errors*: LoadError where it is none, or not one of those in ``accepted``.
    """

    def __init__(self, accepted: tuple[int, ...] = (200,), output: IO[bytes] | None = None) -> None:
        self.size = 0
        self.ended = False
        self._accepted = accepted
        self._output = output
        self._head = b""
        self._found: Head | None = None
        self._chunks = ChunkedBody()

    def take(self, received: memoryview) -> None:
        """What has come; nothing is the end of the connection."""
        if not received:
            raise LoadError("closed before an answer" if self._found is None else f"cut after {self.size} bytes")
        if self._found is None:
            received = self._take_head(received)
        for content in self._contents(received):
            self.size += len(content)
            if self._output is not None:
                self._output.write(content)
        if self._found is not None:
            length = self._found.length
            self.ended = self._chunks.ended if length is None else self.size == length

    def _take_head(self, received: memoryview) -> memoryview:
        self._head += bytes(received)
        self._found = head = parse_head(self._head)
        if head is None:
            if len(self._head) > HEAD_BYTES:
                raise LoadError("an answer's head without an end")
            return received[:0]
        if head.status not in self._accepted:
            raise LoadError(f"status {head.status}: {self._head[head.size :][:200]!r}")
        return memoryview(self._head)[head.size :]

    def _contents(self, received: memoryview) -> Iterator[memoryview]:
        if self._found is None or self._found.length is None:
            yield from self._chunks.take(received)
        elif self.size + len(received) > self._found.length:
            raise LoadError("bytes behind the end of a body")
        else:
            yield received


class Sender:
    """One connection on which ``file`` goes out ``repeat`` times in one body, and then again with each request."""

    def __init__(self, options: argparse.Namespace, method: str, accepted: tuple[int, ...] = (200,)) -> None:
        self._options, self._accepted = options, accepted
        self._file = os.open(options.file, os.O_RDONLY) if options.file else None
        self._size = os.fstat(self._file).st_size if self._file is not None else 0
        self._length = self._size * options.repeat
        self.socket = socket.socket()
        if options.rate:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_WINDOW_BYTES)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", options.port))
        head = f"{method} {options.path} HTTP/1.1\r\nHost: 127.0.0.1:{options.port}\r\n"
        self.first_byte_ms: float | None = None  # of the first request
        head += f"Content-Type: {options.type}\r\n" if options.type else ""
        self._request = f"{head}Content-Length: {self._length}\r\n\r\n".encode()

    def begin(self, output: IO[bytes] | None = None) -> None:
        """The head of a request goes out."""
        self.answer = Answer(self._accepted, output)
        self.sent = 0
        self._began = time.perf_counter()
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.sendall(self._request)
        self.socket.setblocking(False)

    @property
    def wanted(self) -> int:
        """Events of the socket."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.sent < self._length else 0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def send(self) -> None:
        """*Errors*: BlockingIOError."""
        if self._file is None or self.sent == self._length:
            return
        start = self.sent % self._size
        self.sent += os.sendfile(self.socket.fileno(), self._file, start, min(_SENT_AT_ONCE, self._size - start))

    def take(self, most: int = len(_RECEIVED)) -> None:
        """*Errors*: BlockingIOError, LoadError."""
        size = self.socket.recv_into(_RECEIVED, min(most, len(_RECEIVED)))
        self.answer.take(_RECEIVED[:size])
        if self.first_byte_ms is None and self.answer.size:
            self.first_byte_ms = self.seconds * 1000

    def check_all_sent(self) -> None:
        """*Errors*: LoadError where the answer came to its end without having had all of the body."""
        if self.sent < self._length:
            raise LoadError(f"the answer ended when {self.sent} of {self._length} bytes were sent")


def transform(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """One request, to its end; or to that of ``--seconds``, where an answer that is not complete is none the worse."""
    return _one(options, ending, "POST")


def put(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """One file, stored."""
    return _one(options, ending, "PUT", (200, 201))


def get(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """One answer, whether its length is known or not."""
    return _one(options, ending, "GET")


def posting(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """Each connection sends request after request, until SIGTERM."""
    senders = [Sender(options, "POST") for _ in range(options.connections)]
    selector = selectors.DefaultSelector()
    stand, received, answers, began = False, 0, 0, time.perf_counter()
    for sender in senders:
        sender.begin()
        selector.register(sender.socket, sender.wanted, sender)
    while not ending.come:
        for sender in _moved(selector):
            if sender.answer.ended:
                sender.check_all_sent()
                received += sender.answer.size
                answers += 1
                sender.begin()
            _look_for(sender, selector)
        if not stand and all(sender.first_byte_ms is not None for sender in senders):
            stand = True
            ready()
    received += sum(sender.answer.size for sender in senders)
    return {"bytes": received, "answers": answers, "seconds": time.perf_counter() - began}


def _one(
    options: argparse.Namespace, ending: Ending, method: str, accepted: tuple[int, ...] = (200,)
) -> dict[str, Any]:
    with _opened(options.output) as output:
        sender = Sender(options, method, accepted)
        sender.begin(output)
        problems = (_slowly if options.rate else _quickly)(sender, options, ending)
    if sender.answer.ended:
        sender.check_all_sent()
    elif ending.come or options.seconds is None:
        problems.append("the load was ended before the answer was")
    seconds = sender.seconds
    found = {"seconds": seconds, "sent": sender.sent, "bytes": sender.answer.size, "problems": problems}
    found |= {"mb_per_second": (sender.sent or sender.answer.size) / seconds / 1e6}
    return found | ({} if sender.first_byte_ms is None else {"first_byte_ms": sender.first_byte_ms})


def _quickly(sender: Sender, options: argparse.Namespace, ending: Ending) -> list[str]:
    selector = selectors.DefaultSelector()
    selector.register(sender.socket, sender.wanted, sender)
    while not (sender.answer.ended or ending.come or _is_over(sender, options)):
        for _ in _moved(selector):
            _look_for(sender, selector)
    return []


def _look_for(sender: Sender, selector: selectors.BaseSelector) -> None:
    """Has the selector look for what ``sender`` wants now."""
    if selector.get_key(sender.socket).events != sender.wanted:
        selector.modify(sender.socket, sender.wanted, sender)


def _moved(selector: selectors.BaseSelector) -> Iterator[Sender]:
    """Senders that something was sent from or has come for."""
    for key, events in selector.select(0.1):
        sender: Sender = key.data
        with suppress(BlockingIOError):
            if events & selectors.EVENT_READ:
                sender.take()
            if events & selectors.EVENT_WRITE and not sender.answer.ended:
                sender.send()
        yield sender


def _slowly(sender: Sender, options: argparse.Namespace, ending: Ending) -> list[str]:
    """Takes ``--rate`` bytes a second, and sends whatever is let through."""
    while not (sender.answer.ended or ending.come or _is_over(sender, options)):
        time.sleep(SLOW_TICK_SECONDS)
        with suppress(BlockingIOError):
            for _ in range(_SENT_A_TICK):
                sender.send()
        with suppress(BlockingIOError):
            allowed = int(options.rate * sender.seconds)
            while not sender.answer.ended and sender.answer.size < allowed:
                sender.take(allowed - sender.answer.size)
    share = sender.answer.size / (options.rate * sender.seconds)
    if sender.answer.ended or share > 0.8:
        return []
    # A reader that gets less than it takes is no slow reader, but a slow server's.
    return [f"the reader got {share:.0%} of what it would have taken"]


def _is_over(sender: Sender, options: argparse.Namespace) -> bool:
    return options.seconds is not None and sender.seconds > options.seconds


@contextmanager
def _opened(path: Path | None) -> Generator[IO[bytes] | None]:
    if path is None:
        yield None
    else:
        with path.open("wb") as file:
            yield file
