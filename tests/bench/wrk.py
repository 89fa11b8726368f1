"""Works of small requests, as many as wrk gets answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.ground import USER, Ground
from tests.bench.peer import Server
from tests.bench.targets import Target
from tests.bench.work import Column, Measurement, Work, load, wrong_answer

REPORT_PATH = f"/api/report/{USER}"
WARM_UP_SECONDS = 1

_SUMMARY = Path(__file__).parent / "summary.lua"
_HELLO = b"Hello, World!"


def wrk(server: Server, path: str, connections: int, seconds: int, posted: str = "") -> list[str]:
    """The command: wrk on one thread. posted: JSON, where there is any."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", str(_SUMMARY)]
    return [*command, f"http://127.0.0.1:{server.port}{path}", *(["--", posted] if posted else [])]


def read_wrk(summary: dict[str, Any], size: int) -> Measurement:
    """Of what `summary.lua` has printed. size: bytes of the body that each answer must have."""
    if "requests" not in summary:
        return Measurement({}, summary["problems"])
    problems = [f"wrk counted {count} {kind} errors" for kind, count in summary["errors"].items() if count]
    requests = summary["requests"]
    if requests == 0:
        return Measurement({}, [*problems, "no request was answered"])
    if summary["bytes"] < requests * size:
        problems.append(f"{summary['bytes'] / requests:.0f} bytes an answer, and its body alone has {size}")
    figures = {"requests": requests, "requests_per_second": requests / summary["seconds"]}
    return Measurement(figures | {name: summary[name] for name in ("p50_ms", "p99_ms")}, problems)


def warm_up(server: Server, ground: Ground, path: str, connections: int = 50, posted: str = "") -> None:
    with load(wrk(server, path, connections, WARM_UP_SECONDS, posted), ground) as warming:
        warming.watch_to_end(server, WARM_UP_SECONDS)


@dataclass(frozen=True)
class Expected:
    """A body. size: bytes that it has at least."""

    size: int
    right: Callable[[bytes], bool]


def exactly(body: bytes) -> Expected:
    return Expected(len(body), body.__eq__)


@dataclass(frozen=True, kw_only=True)
class Requests(Work[Server]):
    """One request again and again. posted: its JSON; without, it is a GET. answer: what each must be."""

    path: str
    answer: Callable[[Ground], Expected]
    posted: str = ""
    connections: int = 50

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        """Adds the greatest RSS in that time (MiB), and the CPU time that the server's processes used in it."""
        expected = self.answer(ground)
        warm_up(peer, ground, self.path, self.connections, self.posted)
        problems = wrong_answer(peer, self.path, expected.right, self.posted)
        with load(wrk(peer, self.path, self.connections, seconds, self.posted), ground) as loading:
            watched = loading.watch_to_end(peer, seconds)
        measured = read_wrk(loading.summary(), expected.size)
        problems += measured.problems + wrong_answer(peer, self.path, expected.right, self.posted)
        figures = measured.figures | {"rss_mib": watched.rss_mib, "cpu_seconds": watched.cpu}
        if requests := measured.figures.get("requests"):
            figures["cpu_us_per_request"] = watched.cpu / requests * 1e6
        return Measurement(figures, problems)


def request_columns(reference: str) -> tuple[Column, ...]:
    """reference: what to call the reference peer in short."""
    return (
        Column("requests_per_second", "requests/s", ",.0f", ratio=f"× {reference}", spread=True),
        Column("p50_ms", "p50 ms", ".1f"),
        Column("p99_ms", "p99 ms", ".1f", ratio=f"p99 × {reference}"),
        Column("rss_mib", "RSS MiB", ".0f"),
        Column("cpu_seconds", "CPU s", ".2f"),
        Column("cpu_us_per_request", "CPU µs/request", ".0f"),
    )


REPORT = Requests(
    name="report",
    title="a user's report of 20 KB, 50 connections, one worker each",
    path=REPORT_PATH,
    answer=lambda ground: exactly(ground.report),
    peers=("express", "fastapi", "sluice-mysql", "sluice-sqlite"),
    reference="express",
    columns=request_columns("Express"),
    targets=(
        Target("requests/s ÷ Express's", "sluice-mysql", "requests_per_second", to="express", at_least=5),
        Target("p99 ÷ Express's", "sluice-mysql", "p99_ms", to="express", at_most=1 / 3),
        Target("requests/s ÷ that on MariaDB", "sluice-sqlite", "requests_per_second", to="sluice-mysql", at_least=1),
    ),
)


def report_pair(
    name: str, title: str, *, without: str, having: str, called: str, target: str, at_least: float
) -> Requests:
    """The report, of Sluice without something and having it: what that costs. called: the first, in columns."""
    return Requests(
        name=name,
        title=title,
        path=REPORT_PATH,
        answer=lambda ground: exactly(ground.report),
        peers=(without, having),
        reference=without,
        columns=request_columns(called),
        targets=(Target(target, having, "requests_per_second", to=without, at_least=at_least),),
    )


TELEMETRY = report_pair(
    "telemetry",
    "the same report, with and without what is counted and logged of each request",
    without="sluice-quiet",
    having="sluice-mysql",
    called="without",
    target="requests/s ÷ those without",
    at_least=0.95,
)

HELLO = Requests(
    name="hello",
    title="raw ASGI hello, 50 connections, one worker each",
    path="/hello",
    answer=lambda _: exactly(_HELLO),
    peers=("uvicorn", "granian", "hypercorn", "sluice-raw"),
    reference="uvicorn",
    columns=request_columns("uvicorn"),
    targets=(
        Target("requests/s ÷ uvicorn's", "sluice-raw", "requests_per_second", to="uvicorn", at_least=1),
        Target("requests/s ÷ granian's", "sluice-raw", "requests_per_second", to="granian"),
    ),
)

ROUTE = Requests(
    name="route",
    title="a route's hello, 50 connections, one worker each",
    path="/hello",
    answer=lambda _: exactly(_HELLO),
    peers=("express", "fastapi", "sluice-route"),
    reference="express",
    columns=request_columns("Express"),
    targets=(Target("requests/s ÷ Express's", "sluice-route", "requests_per_second", to="express", at_least=1),),
)
