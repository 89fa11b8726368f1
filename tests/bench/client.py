"""A connection of a load: requests, and answers whose bodies are thrown away.

They are thrown away by the kernel (MSG_TRUNC, tcp(7)): nothing is copied, so that the reader is not what limits a
transfer.
"""

from __future__ import annotations

import json
import mmap
import signal
import socket
import time
from dataclasses import dataclass, field

# Of address space only: what MSG_TRUNC throws away is never written there.
_NOWHERE = memoryview(mmap.mmap(-1, 4 << 20))
PATIENCE_SECONDS = 20
HEAD_BYTES = 64 * 1024
SLOW_WINDOW_BYTES = 256 * 1024  # a slow reader's receive buffer
SLOW_TICK_SECONDS = 0.02


class LoadError(Exception):
    """The load cannot go on."""


@dataclass(frozen=True)
class Head:
    """Of an answer. size: its own bytes. length: of the body; None: it comes in chunks."""

    status: int
    length: int | None
    size: int


def parse_head(received: bytes) -> Head | None:
    """None while it is not complete. *Errors*: LoadError where it says no length."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = received[:end].split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    try:
        chunked = fields.get(b"transfer-encoding", b"").lower() == b"chunked"
        return Head(int(first.split()[1]), None if chunked else int(fields[b"content-length"]), end + 4)
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
        self.socket.settimeout(PATIENCE_SECONDS)
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
        part = self.socket.recv(HEAD_BYTES)
        self._head += part
        head = parse_head(self._head)
        if head is None:
            if not part:
                raise LoadError("closed before an answer")
            return 0
        if head.status != 200:
            raise LoadError(f"status {head.status}")
        if head.length is None:
            raise LoadError("an answer in chunks, which this load does not read")
        body = len(self._head) - head.size
        self._left = head.length - body
        return body


def ready() -> None:
    """Says that a load stands which then lasts until SIGTERM."""
    print(json.dumps({"ready": True}), flush=True)
