"""A view of several sources, asked for at a steady pace, and what it costs beyond a route that asks nobody."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.bench.ground import Ground
from tests.bench.own import SOURCES_OF_VIEW, VIEW
from tests.bench.peer import Server
from tests.bench.targets import Target
from tests.bench.transfers import own_load
from tests.bench.work import Column, Measurement, Work, load, wrong_answer

_PATH = f"/api/aggregate/{VIEW}?id=7"
_ALONE = "/healthz"


@dataclass(frozen=True, kw_only=True)
class Steady(Work[Server]):
    """Each of the connections asks ``rate`` times a second; first for /healthz, then for the view."""

    connections: int = 50
    rate: float = 4.0

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        problems = wrong_answer(peer, _PATH, is_complete)
        self._ask(peer, ground, _PATH, 1)  # so that its connections to the sources stand
        alone, alone_cpu = self._ask(peer, ground, _ALONE, seconds)
        view, cpu = self._ask(peer, ground, _PATH, seconds)
        problems += alone["problems"] + view["problems"] + wrong_answer(peer, _PATH, is_complete)
        if problems:
            return Measurement({}, problems)
        figures = {name: view[name] for name in ("answers_per_second", "p50_ms", "p99_ms")}
        figures |= {"cpu_us_per_request": cpu, "added_cpu_us_per_request": cpu - alone_cpu}
        return Measurement(figures, [])

    def _ask(self, peer: Server, ground: Ground, path: str, seconds: int) -> tuple[dict[str, Any], float]:
        """The summary, and the server's CPU time for each answer, in µs."""
        options = [("connections", self.connections), ("rate", self.rate), ("seconds", seconds)]
        with load(own_load("steady", peer, path, options), ground) as loading:
            watched = loading.watch_to_end(peer, seconds)
        summary = loading.summary()
        return summary, watched.cpu / max(1, summary.get("answers", 0)) * 1e6


def is_complete(body: bytes) -> bool:
    """Whether it is a view with a value of each source."""
    try:
        told = json.loads(body)
    except ValueError:
        return False
    return told.get("complete") is True and len(told["sources"]) == SOURCES_OF_VIEW


AGGREGATE = Steady(
    name="aggregate",
    title="a view of 3 sources of 20 ms, 50 clients that ask 4 times a second each",
    peers=("sluice-aggregate",),
    reference="sluice-aggregate",
    rounds=3,
    columns=(
        Column("answers_per_second", "answers/s", ",.0f"),
        Column("p50_ms", "p50 ms", ".1f", spread=True),
        Column("p99_ms", "p99 ms", ".1f"),
        Column("cpu_us_per_request", "CPU µs/request", ",.0f"),
        Column("added_cpu_us_per_request", "more than /healthz", ",.0f"),
    ),
    targets=(
        Target("p50 in ms", "sluice-aggregate", "p50_ms", at_most=30),
        Target("CPU µs a request beyond /healthz", "sluice-aggregate", "added_cpu_us_per_request"),
    ),
)
