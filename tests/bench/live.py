"""Works of live topics: many subscribers, some of whom stall, and many publishers."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import Any

from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.process_group import usage
from tests.bench.targets import Target
from tests.bench.work import Column, Measurement, Watched, Work, load

_PEERS = ("node-hub", "sluice-mysql")
_PER_SECOND = 30
_STALLED = 100
_BUFFER_MIB = 1  # of each subscriber, at most


def _command(kind: str, server: Server, connections: int, seconds: int, stalled: int = 0) -> list[str]:
    command = [sys.executable, "-m", "tests.bench.live_load", kind, str(server.port)]
    options = {"connections": connections, "seconds": seconds, "stalled": stalled, "rate": _PER_SECOND}
    return [*command, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def _run(command: list[str], server: Server, ground: Ground, seconds: int) -> tuple[dict[str, Any], Watched]:
    with load(command, ground) as loading:
        watched = loading.watch_to_end(server, seconds)
    return loading.summary(), watched


@dataclass(frozen=True, kw_only=True)
class FanOut(Work[Server]):
    """Subscribers to one topic, to which is published at a steady pace; then with some more that never read."""

    connections: int = 1000
    quick_connections: int = 100
    stalled: int = 0

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        connections = self.quick_connections if quick else self.connections
        summary, watched = _run(_command("fan-out", peer, connections, seconds), peer, ground, seconds)
        figures: dict[str, float] = {"cpu_seconds": watched.cpu, "rss_mib": watched.rss_mib}
        problems: list[str] = list(summary.pop("problems"))
        figures |= summary
        if self.stalled and not problems:
            start = statistics.median(watched.anon)
            command = _command("fan-out", peer, connections, seconds, self.stalled)
            beside, watched = _run(command, peer, ground, seconds)
            problems += beside.pop("problems")
            if not problems:
                figures |= {
                    "p99_alone_ms": summary["p99_ms"],
                    "p99_ms": beside["p99_ms"],
                    "p99_ratio": beside["p99_ms"] / summary["p99_ms"],
                    "growth_mib": watched.growth_mib(start),
                }
        return Measurement(figures, problems)


@dataclass(frozen=True, kw_only=True)
class Publishing(Work[Server]):
    """Publishers to one topic, as fast as they are answered."""

    connections: int = 50

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        before = usage(peer.pid)
        summary, watched = _run(_command("publish", peer, self.connections, seconds), peer, ground, seconds)
        problems: list[str] = list(summary.pop("problems"))
        memory = {"growth_mib": watched.growth_mib(before.anon), "cpu_seconds": watched.cpu}
        return Measurement(summary | memory, problems)


_LATENCY = (Column("p50_ms", "p50 ms", ".1f"), Column("p99_ms", "p99 ms", ".1f", ratio="× the hub's", spread=True))
_COST = (Column("cpu_seconds", "CPU s", ".2f"), Column("rss_mib", "RSS MiB", ",.0f"))

LIVE_FAN_OUT = FanOut(
    name="live-fan-out",
    title=f"1000 subscribers to one topic, {_PER_SECOND} events/s; from publishing to arrival",
    peers=_PEERS,
    reference="node-hub",
    rounds=3,
    at_least=5,
    columns=(Column("delivered", "events that came", ",.0f"), *_LATENCY, *_COST),
    targets=(Target("p99 ÷ the hub's", "sluice-mysql", "p99_ms", to="node-hub", at_most=1),),
)
LIVE_STALLED = FanOut(
    name="live-stalled",
    title=f"the same, and {_STALLED} more that never read",
    stalled=_STALLED,
    peers=_PEERS,
    reference="node-hub",
    rounds=3,
    at_least=5,
    columns=(
        Column("p99_alone_ms", "p99 ms without", ".1f"),
        Column("p99_ms", "with", ".1f"),
        Column("p99_ratio", "with ÷ without", ".2f", spread=True),
        Column("growth_mib", "growth MiB (RssAnon)", ",.1f"),
        *_COST,
    ),
    targets=(
        Target("p99 of the others ÷ that without", "sluice-mysql", "p99_ratio", at_most=1.5),
        Target(
            "growth in MiB, of the worst round",
            "sluice-mysql",
            "growth_mib",
            at_most=_STALLED * _BUFFER_MIB,
            worst=True,
        ),
    ),
)
LIVE_PUBLISH = Publishing(
    name="live-publish",
    title="50 publishers to one topic, each with its next event when the last one is committed",
    peers=("sluice-mysql", "sluice-sqlite"),
    reference="sluice-mysql",
    rounds=3,
    columns=(
        Column("events_per_second", "events/s", ",.0f", spread=True),
        Column("p50_ms", "p50 ms", ".1f"),
        Column("p99_ms", "p99 ms", ".1f"),
        Column("growth_mib", "growth MiB (RssAnon)", ",.1f"),
        Column("cpu_seconds", "CPU s", ".2f"),
    ),
    targets=(Target("events/s on MariaDB", "sluice-mysql", "events_per_second", at_least=1000),),
)
