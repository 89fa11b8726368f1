"""Loads of live topics: who subscribes, and who publishes. ``python -m tests.bench.live_load KIND PORT …``.

Says one line of JSON at the end: figures, and problems, in words.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from tests.bench.client import PATIENCE_SECONDS, LoadError, percentile

TOPIC = "bench"
_EVENT = re.compile(rb'"at":(\d+)\}')
_PADDING = "x" * 100
_READ_BYTES = 256 * 1024
_SMALL_WINDOW_BYTES = 4096
_SETTLE_SECONDS = 3.0


@dataclass
class Subscriber:
    """One connection to the topic's feed, of which events are counted and timed."""

    port: int
    topic: str
    window: int = 0
    events: int = 0
    late_ms: list[float] = field(default_factory=list[float])
    _rest: bytes = b""

    def __post_init__(self) -> None:
        self.socket = socket.socket()
        if self.window:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", self.port))
        head = f"GET /api/live/{self.topic} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n"
        self.socket.sendall(head.encode())

    def wait_open(self) -> None:
        """Until it is subscribed. *Errors*: LoadError."""
        came = b""
        while b"retry: " not in came:
            part = self.socket.recv(4096)
            if not part:
                raise LoadError(f"not subscribed: {came[:200]!r}")
            came += part
        self.socket.setblocking(False)

    def read(self) -> None:
        """What has come. *Errors*: LoadError where that is the end."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise LoadError("a feed has ended")
        now = time.monotonic_ns()
        data = self._rest + data
        end = 0
        for match in _EVENT.finditer(data):
            self.events += 1
            self.late_ms.append((now - int(match[1])) / 1e6)
            end = match.end()
        self._rest = data[end:][-400:]


class Publisher:
    """One connection that publishes, an event after the other."""

    def __init__(self, port: int, topic: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self._head = f"POST /api/live/{topic} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self.sent = 0
        self.answered = 0
        self.took_ms: list[float] = []
        self._began = 0.0

    def send(self) -> None:
        body = f'{{"n":{self.sent},"x":"{_PADDING}","at":{time.monotonic_ns()}}}'
        self.sent += 1
        self._began = time.perf_counter()
        self.socket.sendall(f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def read(self) -> None:
        """An answer, or the answers, that came. *Errors*: LoadError."""
        data = self.socket.recv(_READ_BYTES)
        accepted = data.count(b"HTTP/1.1 202")
        if not accepted or accepted != data.count(b"HTTP/1.1 "):
            raise LoadError(f"not published: {data[:200]!r}")
        self.answered += accepted
        self.took_ms.append((time.perf_counter() - self._began) * 1000)


def fan_out(port: int, subscribers: int, stalled: int, per_second: float, seconds: float) -> dict[str, Any]:
    """Subscribers that read, some that never do, and one publisher at a steady pace."""
    with ExitStack() as stack:
        return _fan_out(stack, port, subscribers, stalled, per_second, seconds)


def _fan_out(
    stack: ExitStack, port: int, subscribers: int, stalled: int, per_second: float, seconds: float
) -> dict[str, Any]:
    sleepers = [Subscriber(port, TOPIC, _SMALL_WINDOW_BYTES) for _ in range(stalled)]
    readers = [Subscriber(port, TOPIC) for _ in range(subscribers)]
    for one in (*sleepers, *readers):
        stack.enter_context(closing(one.socket))
        one.wait_open()
    publisher = Publisher(port, TOPIC)
    stack.enter_context(closing(publisher.socket))
    with selectors.EpollSelector() as selector:
        for one in (*readers, publisher):
            selector.register(one.socket, selectors.EVENT_READ, one)
        print(json.dumps({"ready": True}), flush=True)
        begun = time.monotonic()
        total = int(per_second * seconds)
        deadline = begun + seconds + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            due = begun + publisher.sent / per_second
            if publisher.sent < total and time.monotonic() >= due:
                publisher.send()
            elif publisher.sent == total and all(one.events >= total for one in readers):
                break
            for key, _ in selector.select(max(0.0, min(due - time.monotonic(), 0.05))):
                key.data.read()
    late = [value for one in readers for value in one.late_ms]
    missing = sum(total - one.events for one in readers)
    return {
        "problems": [] if not missing else [f"{missing} of {total * subscribers} events did not come"],
        "delivered": sum(one.events for one in readers),
        "p50_ms": percentile(late, 0.5) if late else 0.0,
        "p99_ms": percentile(late, 0.99) if late else 0.0,
    }


def publish(port: int, publishers: int, seconds: float) -> dict[str, Any]:
    """Publishers to one topic, each with its next event as soon as the last one is accepted."""
    all_of_them = [Publisher(port, TOPIC) for _ in range(publishers)]
    with ExitStack() as stack, selectors.EpollSelector() as selector:
        for one in all_of_them:
            stack.enter_context(closing(one.socket))
            selector.register(one.socket, selectors.EVENT_READ, one)
            one.send()
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            for key, _ in selector.select(0.1):
                key.data.read()
                key.data.send()
    took = [value for one in all_of_them for value in one.took_ms]
    return {
        "problems": [] if took else ["nothing was published"],
        "events_per_second": sum(one.answered for one in all_of_them) / (now - begun),
        "p50_ms": percentile(took, 0.5) if took else 0.0,
        "p99_ms": percentile(took, 0.99) if took else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("fan-out", "publish"))
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--stalled", type=int, default=0)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    try:
        if given.kind == "publish":
            summary = publish(given.port, given.connections, given.seconds)
        else:
            summary = fan_out(given.port, given.connections, given.stalled, given.rate, given.seconds)
    except (OSError, LoadError) as error:
        summary = {"problems": [f"{type(error).__name__}: {error}"]}
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
