"""Works of large bodies: how fast they come, and what they cost in memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.process_group import usage
from tests.bench.targets import Target
from tests.bench.work import Column, Measurement, Work, load, wrong_answer
from tests.bench.wrk import REPORT_PATH, warm_up

_DOWNLOAD_USER = "download"
_DOWNLOAD_BYTES = 100_000_000
_UPLOAD_BYTES = 400_000_000
_CONSUMED_MB_PER_SECOND = 1.0  # by peers/quart_routes.py
# What the kernel holds of a connection for both its ends, at most: tcp_wmem and tcp_rmem, by default.
_KERNEL_MB = 40


def own_load(kind: str, server: Server, path: str, options: Sequence[tuple[str, object]]) -> list[str]:
    """The command of a load of `load.py`."""
    command = [sys.executable, "-m", "tests.bench.load", kind, str(server.port), path]
    return [*command, *(word for name, value in options for word in (f"--{name}", str(value)))]


@dataclass(frozen=True, kw_only=True)
class Download(Work[Server]):
    """A large report over some connections."""

    connections: int = 8

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        ground.add(_DOWNLOAD_USER, _DOWNLOAD_BYTES)

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        path = f"/api/report/{_DOWNLOAD_USER}"
        content = ground.stored(_DOWNLOAD_USER).read_bytes()  # which also puts it into the page cache
        # With small answers: what a large one takes for good must not count as having been there before.
        warm_up(peer, ground, REPORT_PATH, self.connections)
        start = usage(peer.pid)
        options = [("connections", self.connections), ("seconds", seconds)]
        with load(own_load("download", peer, path, options), ground) as loading:
            watched = loading.watch_to_end(peer, seconds)
        summary = loading.summary()
        problems = summary.pop("problems") + wrong_answer(peer, path, content.__eq__)
        figures = summary | {
            "growth_mib": watched.growth_mib(start.anon),
            "rss_mib": watched.rss_mib,
            "cpu_seconds": watched.cpu,
        }
        if summary.get("bytes"):
            figures["cpu_seconds_per_gb"] = watched.cpu / summary["bytes"] * 1e9
        return Measurement(figures, problems)


@dataclass(frozen=True, kw_only=True)
class SlowUpload(Work[Server]):
    """A sender that is faster than the route that consumes what it sends."""

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        warm_up(peer, ground, "/hello", 8)
        start = usage(peer.pid)
        command = own_load("slow-upload", peer, "/upload", [("size", _UPLOAD_BYTES)])
        with load(command, ground) as loading:
            loading.wait_ready()
            watched = loading.watch(peer, seconds)
        summary = loading.summary()
        problems = summary.pop("problems")
        if "sent_mb" in summary:
            consumed = seconds * _CONSUMED_MB_PER_SECOND
            summary["ahead_mb"] = summary["sent_mb"] - consumed
            if summary["sent_mb"] < 0.8 * consumed:
                problems.append(f"{summary['sent_mb']:.1f} MB sent, and the route takes {consumed:.1f}")
        memory = {"growth_mib": watched.growth_mib(start.anon), "rss_mib": watched.rss_mib, "cpu_seconds": watched.cpu}
        return Measurement(summary | memory, problems)


_MEMORY = (
    Column("growth_mib", "growth MiB (RssAnon)", ",.1f", spread=True),
    Column("rss_mib", "RSS MiB", ",.0f"),
    Column("cpu_seconds", "CPU s", ".2f"),
)

DOWNLOAD = Download(
    name="download",
    title="a file of 100 MB, 8 connections, one worker each",
    peers=("nginx", "express", "sluice-mysql"),
    reference="nginx",
    rounds=3,
    at_least=4,
    columns=(
        Column("mb_per_second", "MB/s", ",.0f", ratio="× nginx", spread=True),
        Column("first_byte_ms", "first byte ms", ",.1f"),
        Column("first_byte_max_ms", "at most", ",.1f"),
        Column("p50_ms", "p50 ms", ",.0f"),
        Column("p99_ms", "p99 ms", ",.0f"),
        *_MEMORY,
        Column("cpu_seconds_per_gb", "CPU s/GB", ".2f"),
    ),
    targets=(
        Target("MB/s ÷ nginx's", "sluice-mysql", "mb_per_second", to="nginx", at_least=1),
        Target("growth in MiB, of the worst round", "sluice-mysql", "growth_mib", at_most=32, worst=True),
        Target("first byte in ms", "sluice-mysql", "first_byte_ms", at_most=50),
        Target(
            "latest first byte in ms, of the worst round", "sluice-mysql", "first_byte_max_ms", at_most=50, worst=True
        ),
    ),
)

SLOW_UPLOAD = SlowUpload(
    name="slow-upload",
    title="400 MB sent to a route that takes 1 MB/s, one worker each",
    peers=("sluice-route", "quart"),
    reference="quart",
    rounds=3,
    factor=3,
    columns=(
        Column("sent_mb", "sent MB", ",.1f", spread=True),
        Column("ahead_mb", "ahead of the consumer MB", ",.1f"),
        *_MEMORY,
    ),
    targets=(
        Target("growth in MiB, of the worst round", "sluice-route", "growth_mib", at_most=8, worst=True),
        Target("MB sent ahead of the consumer", "sluice-route", "ahead_mb", at_most=_KERNEL_MB, worst=True),
    ),
)
