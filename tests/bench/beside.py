"""Works that ask what a burden costs: those who ask beside it in time, and the server in memory."""

from __future__ import annotations

import statistics
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.targets import Target
from tests.bench.transfers import own_load
from tests.bench.work import Column, Load, Measurement, Watched, Work, load, wrong_answer
from tests.bench.wrk import REPORT_PATH, read_wrk, warm_up, wrk

_PHASES = 3  # of each kind
_SETTLE_SECONDS = 1.0  # in which a server gets over the end of thousands of connections
_READ_USER = "slow-read"
_READ_BYTES = 1_000_000_000
_HEALTHY = b'{"status":"ok"}\n'


@dataclass(frozen=True)
class _Phase:
    measured: Measurement
    watched: Watched


@dataclass(frozen=True, kw_only=True)
class Beside(Work[Server]):
    """wrk asks for ``asked``, without the burden and with it in turn, on the same server.

    burden: its name in `load.py`. connections: of it. large: its path is that of a report of 1 GB, not the small one.
    asked: a path; body: what each answer there must be. As much time is spent without the burden as with it.
    """

    burden: str
    connections: int
    quick_connections: int
    large: bool = False
    others: int = 10
    asked: str = REPORT_PATH
    body: Callable[[Ground], bytes] = attrgetter("report")

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        if self.large:
            ground.add(_READ_USER, _READ_BYTES)

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        connections = self.quick_connections if quick else self.connections
        command = own_load(self.burden, peer, *self.burden_of(ground, connections, quick=quick))
        warm_up(peer, ground, self.asked)
        alone, beside = list[_Phase](), list[_Phase]()
        burdens: list[Load] = []
        each = max(1, seconds // _PHASES)
        for _ in range(_PHASES):
            alone.append(self._ask(peer, ground, each))
            with load(command, ground) as burden:
                burden.wait_ready()
                beside.append(self._ask(peer, ground, each))
            burdens.append(burden)
            time.sleep(_SETTLE_SECONDS)
        problems = [problem for phase in (*alone, *beside) for problem in phase.measured.problems]
        done = [burden.summary() for burden in burdens]
        problems += [problem for summary in done for problem in summary["problems"]]
        problems += wrong_answer(peer, self.asked, self.body(ground).__eq__)
        if problems:
            return Measurement({}, problems)
        return Measurement(_figures(alone, beside, connections) | of_burden(done), [])

    def burden_of(self, ground: Ground, connections: int, *, quick: bool) -> tuple[str, Sequence[tuple[str, object]]]:
        """Its path and options."""
        return f"/api/report/{_READ_USER}" if self.large else REPORT_PATH, [("connections", connections)]

    def _ask(self, server: Server, ground: Ground, seconds: int) -> _Phase:
        with load(wrk(server, self.asked, self.others, seconds), ground) as loading:
            watched = loading.watch_to_end(server, seconds)
        return _Phase(read_wrk(loading.summary(), len(self.body(ground))), watched)


@dataclass(frozen=True, kw_only=True)
class BesidePosts(Beside):
    """Each connection of the burden posts the same file again and again; /healthz is asked for beside it."""

    burden: str = "posting"
    connections: int = 4
    quick_connections: int = 4
    asked: str = "/healthz"
    body: Callable[[Ground], bytes] = lambda _: _HEALTHY

    @abstractmethod
    def posted(self, ground: Ground, *, quick: bool) -> tuple[str, Path, str]:
        """The path, the file that is posted there, and its media type if it needs one."""

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        self.posted(ground, quick=quick)

    def burden_of(self, ground: Ground, connections: int, *, quick: bool) -> tuple[str, Sequence[tuple[str, object]]]:
        path, file, media_type = self.posted(ground, quick=quick)
        return path, [("connections", connections), ("file", file), ("type", media_type)]


def _figures(alone: list[_Phase], beside: list[_Phase], connections: int) -> dict[str, float]:
    def middle(phases: list[_Phase], figure: str) -> float:
        return statistics.median(phase.measured.figures[figure] for phase in phases)

    p99, p99_alone = middle(beside, "p99_ms"), middle(alone, "p99_ms")
    start = statistics.median(alone[0].watched.anon)
    return {
        "connections": connections,
        "p99_ms": p99,
        "p99_alone_ms": p99_alone,
        "p99_ratio": p99 / p99_alone,
        # Phase by phase, in the record.
        **{f"p99_ms_{number}": phase.measured.figures["p99_ms"] for number, phase in enumerate(beside, 1)},
        **{f"p99_alone_ms_{number}": phase.measured.figures["p99_ms"] for number, phase in enumerate(alone, 1)},
        "requests_per_second": middle(beside, "requests_per_second"),
        "requests_per_second_alone": middle(alone, "requests_per_second"),
        "growth_mib": max(phase.watched.growth_mib(start) for phase in beside),
        # Only of the first time: later ones find memory that an earlier one has left.
        "each_kb": (statistics.median(beside[0].watched.anon) - start) / connections / 1000,
        "rss_mib": max(phase.watched.rss_mib for phase in beside),
        "cpu_seconds": sum(phase.watched.cpu for phase in beside),
        "cpu_seconds_alone": sum(phase.watched.cpu for phase in alone),
    }


def of_burden(done: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What a burden got, where it tells: one that gets nothing would be none."""
    if not all("answers" in summary for summary in done):
        return {}
    seconds = sum(summary["seconds"] for summary in done)
    return {"burden_answers_per_second": sum(summary["answers"] for summary in done) / seconds}


BESIDE_COLUMNS = (
    Column("connections", "connections", ",.0f"),
    Column("p99_alone_ms", "p99 ms without", ".1f"),
    Column("p99_ms", "with", ".1f"),
    Column("p99_ratio", "p99 with ÷ without", ".2f", spread=True),
    Column("requests_per_second_alone", "requests/s without", ",.0f"),
    Column("requests_per_second", "with", ",.0f"),
    Column("growth_mib", "growth MiB (RssAnon)", ",.1f", spread=True),
    Column("each_kb", "KB a connection", ",.1f"),
    Column("rss_mib", "RSS MiB", ",.0f"),
    Column("cpu_seconds_alone", "CPU s without", ".2f"),
    Column("cpu_seconds", "with", ".2f"),
)

SLOW_READERS = Beside(
    name="slow-readers",
    title="8 readers of a report of 1 GB that take 1 MB/s each, and 10 connections beside them",
    burden="slow-read",
    connections=8,
    quick_connections=8,
    large=True,
    peers=("sluice-mysql",),
    reference="sluice-mysql",
    rounds=3,
    factor=3,
    columns=BESIDE_COLUMNS,
    targets=(
        Target("growth in MiB, of the worst round", "sluice-mysql", "growth_mib", at_most=32, worst=True),
        Target("p99 of the others ÷ that without", "sluice-mysql", "p99_ratio", at_most=2),
    ),
)

IDLE = Beside(
    name="idle",
    title="5000 idle connections that had an answer, and 10 connections beside them",
    burden="idle",
    connections=5000,
    quick_connections=500,
    peers=("sluice-mysql",),
    reference="sluice-mysql",
    rounds=3,
    columns=BESIDE_COLUMNS,
    targets=(
        Target("KB a connection, of the worst round", "sluice-mysql", "each_kb", at_most=20, worst=True),
        Target("p99 of the others ÷ that without", "sluice-mysql", "p99_ratio", at_most=1.5),
    ),
)
