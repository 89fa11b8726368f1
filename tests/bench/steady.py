"""A load that does not depend on how fast it is answered: each client asks at a steady pace."""

from __future__ import annotations

import argparse
import selectors
import time
from contextlib import suppress
from typing import Any

from tests.bench.client import Client, Ending, percentile

_TICK_SECONDS = 0.001


class Pace:
    """One client, whose requests are due every ``interval`` seconds. ms: from when each was due to its answer's end."""

    def __init__(self, client: Client, first: float, interval: float) -> None:
        self.client = client
        self.ms: list[float] = []
        self._due = first
        self._interval = interval
        self._waits = False

    def ask_if_due(self, now: float) -> None:
        """What is due while the answer before it has not come is asked for afterwards, and has waited meanwhile."""
        if not self._waits and self._due <= now:
            self._waits = True
            self.client.ask()

    def take(self) -> None:
        """*Errors*: BlockingIOError."""
        if self.client.take():
            self._waits = False
            self.ms.append((time.perf_counter() - self._due) * 1000)
            self._due += self._interval


def steady(options: argparse.Namespace, _: Ending) -> dict[str, Any]:
    """``--rate`` requests a second of each connection, evenly spread, for ``--seconds``."""
    interval, began = 1 / options.rate, time.perf_counter()
    selector = selectors.DefaultSelector()
    paces: list[Pace] = []
    for number in range(options.connections):
        client = Client(options.port, options.path)
        paces.append(Pace(client, began + interval * number / options.connections, interval))
        client.socket.setblocking(False)
        selector.register(client.socket, selectors.EVENT_READ, paces[-1])
    while (now := time.perf_counter()) < began + options.seconds:
        for pace in paces:
            pace.ask_if_due(now)
        for key, _events in selector.select(_TICK_SECONDS):
            with suppress(BlockingIOError):
                key.data.take()
    ms = [each for pace in paces for each in pace.ms]
    wanted = options.rate * options.connections * options.seconds
    problems = [] if len(ms) > 0.9 * wanted else [f"{len(ms)} answers to {wanted:.0f} requests"]
    found = {"answers": len(ms), "answers_per_second": len(ms) / options.seconds, "problems": problems}
    return found | ({"p50_ms": percentile(ms, 0.5), "p99_ms": percentile(ms, 0.99)} if ms else {})
