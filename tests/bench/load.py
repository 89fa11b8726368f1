"""The loads that wrk has not: ``python load.py KIND PORT PATH [options]``, in a process of its own, as wrk is.

It prints lines of JSON: ``{"ready": true}`` once a load stands that then lasts until SIGTERM, and at the end a summary
with ``problems``. Bodies are thrown away by the kernel (MSG_TRUNC, tcp(7)): nothing is copied, so that the reader is
not what limits a transfer.
"""

from __future__ import annotations

import argparse
import json
import mmap
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# Of address space only: what MSG_TRUNC throws away is never written there.
_NOWHERE = memoryview(mmap.mmap(-1, 4 << 20))
_HEAD_BYTES = 64 * 1024
_SLOW_WINDOW_BYTES = 256 * 1024  # a slow reader's receive buffer
_SLOW_TICK_SECONDS = 0.02
_OPENED_AT_ONCE = 100
_PATIENCE_SECONDS = 20


class LoadError(Exception):
    """The load cannot go on."""


@dataclass(frozen=True)
class Head:
    """Of an answer. size: its own bytes. length: of the body."""

    status: int
    length: int
    size: int


def parse_head(received: bytes) -> Head | None:
    """None while it is not complete. *Errors*: LoadError where it says no length."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = received[:end].split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    try:
        return Head(int(first.split()[1]), int(fields[b"content-length"]), end + 4)
    except (IndexError, KeyError, ValueError) as error:
        raise LoadError(f"an answer without status or length: {received[:end]!r}") from error


def percentile(values: list[float], share: float) -> float:
    """The least of ``values`` that no more than ``1 - share`` of them exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


class Ending:
    """SIGTERM, as something to look at."""

    def __init__(self) -> None:
        self.come = False
        signal.signal(signal.SIGTERM, self._see)

    def _see(self, *_: object) -> None:
        self.come = True


@dataclass
class Client:
    """One connection, which asks for ``path`` again and again and throws the bodies away."""

    port: int
    path: str
    window: int = 0
    received: int = 0  # bytes of bodies, ever
    first_byte_ms: list[float] = field(default_factory=list[float])
    whole_ms: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        self.socket = socket.socket()
        if self.window:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        self.socket.settimeout(_PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", self.port))
        self._request = f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()

    def ask(self) -> None:
        self._head, self._left, self._waits = b"", -1, True
        self._asked = time.perf_counter()
        self.socket.sendall(self._request)

    def waited_ms(self) -> float | None:
        """How long it has been waiting for the first byte of a body; None where it is not."""
        return (time.perf_counter() - self._asked) * 1000 if self._waits else None

    def take(self, most: int = len(_NOWHERE)) -> bool:
        """What has come, up to ``most`` bytes of the body; whether that was its end. *Errors*: BlockingIOError."""
        if self._left < 0:
            size = self._take_head()
        else:
            size = self.socket.recv_into(_NOWHERE, min(most, self._left), socket.MSG_TRUNC)
            if size == 0:
                raise LoadError(f"closed with {self._left} bytes to come")
            self._left -= size
        self.received += size
        if size and self._waits:
            self._waits = False
            self.first_byte_ms.append((time.perf_counter() - self._asked) * 1000)
        if self._left == 0:
            self.whole_ms.append((time.perf_counter() - self._asked) * 1000)
        return self._left == 0

    def _take_head(self) -> int:
        """Returns how much of the body came with it."""
        part = self.socket.recv(_HEAD_BYTES)
        self._head += part
        head = parse_head(self._head)
        if head is None:
            if not part:
                raise LoadError("closed before an answer")
            return 0
        if head.status != 200:
            raise LoadError(f"status {head.status}")
        body = len(self._head) - head.size
        self._left = head.length - body
        return body


def download(options: argparse.Namespace, _: Ending) -> dict[str, Any]:
    """As much as comes within ``--seconds``. A request that still waits at the end counts with its wait so far."""
    clients = [Client(options.port, options.path) for _ in range(options.connections)]
    selector = selectors.DefaultSelector()
    began = time.perf_counter()
    for client in clients:
        client.ask()
        client.socket.setblocking(False)
        selector.register(client.socket, selectors.EVENT_READ, client)
    while (seconds := time.perf_counter() - began) < options.seconds:
        for key, _events in selector.select(0.1):
            with suppress(BlockingIOError):
                if key.data.take():
                    key.data.ask()
    first = [ms for client in clients for ms in client.first_byte_ms]
    first += [ms for client in clients if (ms := client.waited_ms()) is not None]
    whole = [ms for client in clients for ms in client.whole_ms]
    received = sum(client.received for client in clients)
    found = {
        "bytes": received,
        "mb_per_second": received / seconds / 1e6,
        "first_byte_ms": percentile(first, 0.5),
        "first_byte_max_ms": max(first),
    }
    return found | ({"p50_ms": percentile(whole, 0.5), "p99_ms": percentile(whole, 0.99)} if whole else {})


def slow_read(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """Each connection takes ``--rate`` bytes a second, until SIGTERM."""
    clients = [Client(options.port, options.path, _SLOW_WINDOW_BYTES) for _ in range(options.connections)]
    for client in clients:
        client.ask()
        while not client.received:
            client.take(1)
        client.socket.setblocking(False)
    _ready()
    began, before = time.perf_counter(), sum(client.received for client in clients)
    for seconds in _ticks(ending, began):
        for client in clients:
            allowed = int(options.rate * seconds) - client.received
            with suppress(BlockingIOError):
                if allowed > 0 and client.take(allowed):
                    raise LoadError("a report came to its end; it is too small for this")
    seconds = time.perf_counter() - began
    share = (sum(client.received for client in clients) - before) / (options.rate * seconds * len(clients))
    # A reader that gets less than it takes is no slow reader, but a slow server's.
    problems = [] if share > 0.8 else [f"the readers got {share:.0%} of what they would have taken"]
    return {"bytes": sum(client.received for client in clients), "problems": problems}


def slow_upload(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """One connection sends ``--size`` bytes as fast as it is let, then holds it, until SIGTERM."""
    connection = socket.create_connection(("127.0.0.1", options.port), _PATIENCE_SECONDS)
    head = f"PUT {options.path} HTTP/1.1\r\nHost: 127.0.0.1:{options.port}\r\nContent-Length: {options.size}\r\n\r\n"
    connection.sendall(head.encode())
    connection.setblocking(False)
    block = memoryview(bytes(1 << 20))
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
    sent = 0
    _ready()
    while not ending.come:
        for _, events in selector.select(0.1):
            if events & selectors.EVENT_READ:
                raise LoadError(f"answered or closed after {sent} bytes: {connection.recv(200)!r}")
            with suppress(BlockingIOError):
                sent += connection.send(block[: options.size - sent])
        if sent == options.size:
            selector.modify(connection, selectors.EVENT_READ)
    return {"bytes": sent, "sent_mb": sent / 1e6}


def idle(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """Connections that have had one answer each, and then stay, until SIGTERM."""
    clients: list[Client] = []
    while len(clients) < options.connections:
        few = min(_OPENED_AT_ONCE, options.connections - len(clients))
        opened = [Client(options.port, options.path) for _ in range(few)]
        for client in opened:
            client.ask()
        for client in opened:
            while not client.take():
                pass
        clients += opened
    _ready()
    while not ending.come:
        time.sleep(_SLOW_TICK_SECONDS)
    gone = sum(map(_has_left, clients))
    return {"problems": [f"the server closed {gone} of them"] if gone else []}


def _has_left(client: Client) -> bool:
    client.socket.setblocking(False)
    try:
        return not client.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _ticks(ending: Ending, began: float) -> Iterator[float]:
    """The seconds since ``began``, every now and then until the end."""
    while not ending.come:
        time.sleep(_SLOW_TICK_SECONDS)
        yield time.perf_counter() - began


def _ready() -> None:
    print(json.dumps({"ready": True}), flush=True)


KINDS: dict[str, Callable[[argparse.Namespace, Ending], dict[str, Any]]] = {
    "download": download,
    "slow-read": slow_read,
    "slow-upload": slow_upload,
    "idle": idle,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=1e6, help="bytes a second of each slow reader")
    parser.add_argument("--size", type=int, default=400_000_000, help="bytes of an upload")
    options = parser.parse_args()
    try:
        found = KINDS[options.kind](options, Ending())
    except (LoadError, OSError) as error:
        found = {"problems": [f"{type(error).__name__}: {error}"]}
    print(json.dumps({"problems": []} | found), flush=True)
    # Connections that are still open are closed by the end of the process, all at once.
    sys.exit(0)


if __name__ == "__main__":
    main()
