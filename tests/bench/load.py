"""The loads that wrk has not: ``python -m tests.bench.load KIND PORT PATH [options]``, a process of its own, as wrk is.

It prints lines of JSON: ``{"ready": true}`` once a load stands that then lasts until SIGTERM, and at the end a summary
with ``problems``.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.bench.client import (
    PATIENCE_SECONDS,
    SLOW_TICK_SECONDS,
    SLOW_WINDOW_BYTES,
    Client,
    Ending,
    LoadError,
    percentile,
    ready,
)
from tests.bench.sending import get, posting, put, transform
from tests.bench.steady import steady

_OPENED_AT_ONCE = 100
_SLOW_RATE = 1e6  # bytes a second


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
    rate = options.rate or _SLOW_RATE
    clients = [Client(options.port, options.path, SLOW_WINDOW_BYTES) for _ in range(options.connections)]
    for client in clients:
        client.ask()
        while not client.received:
            client.take(1)
        client.socket.setblocking(False)
    ready()
    began, before = time.perf_counter(), sum(client.received for client in clients)
    for seconds in _ticks(ending, began):
        for client in clients:
            allowed = int(rate * seconds) - client.received
            with suppress(BlockingIOError):
                if allowed > 0 and client.take(allowed):
                    raise LoadError("a report came to its end; it is too small for this")
    seconds = time.perf_counter() - began
    share = (sum(client.received for client in clients) - before) / (rate * seconds * len(clients))
    # A reader that gets less than it takes is no slow reader, but a slow server's.
    problems = [] if share > 0.8 else [f"the readers got {share:.0%} of what they would have taken"]
    return {"bytes": sum(client.received for client in clients), "problems": problems}


def slow_upload(options: argparse.Namespace, ending: Ending) -> dict[str, Any]:
    """One connection sends ``--size`` bytes as fast as it is let, then holds it, until SIGTERM."""
    connection = socket.create_connection(("127.0.0.1", options.port), PATIENCE_SECONDS)
    head = f"PUT {options.path} HTTP/1.1\r\nHost: 127.0.0.1:{options.port}\r\nContent-Length: {options.size}\r\n\r\n"
    connection.sendall(head.encode())
    connection.setblocking(False)
    block = memoryview(bytes(1 << 20))
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
    sent = 0
    ready()
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
    ready()
    while not ending.come:
        time.sleep(SLOW_TICK_SECONDS)
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
        time.sleep(SLOW_TICK_SECONDS)
        yield time.perf_counter() - began


KINDS: dict[str, Callable[[argparse.Namespace, Ending], dict[str, Any]]] = {
    "download": download,
    "slow-read": slow_read,
    "slow-upload": slow_upload,
    "idle": idle,
    "transform": transform,
    "posting": posting,
    "put": put,
    "get": get,
    "steady": steady,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="to stop after, where a load has no end of its own")
    parser.add_argument("--rate", type=float, help="of each connection: bytes a second, or requests")
    parser.add_argument("--file", type=Path, help="what is sent")
    parser.add_argument("--type", help="its media type")
    parser.add_argument("--repeat", type=int, default=1, help="how often, in one body")
    parser.add_argument("--output", type=Path, help="where an answer's body goes; it is thrown away without")
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
