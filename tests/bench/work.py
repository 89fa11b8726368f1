"""A work: what is asked of each peer, by which load, and what is read off. And those there are."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.bench.ground import USER, Ground
from tests.bench.peer import Server
from tests.bench.process_group import has_ended, process_group, tail, usage

_SUMMARY = Path(__file__).parent / "summary.lua"
_SAMPLE_SECONDS = 0.25
_GRACE_SECONDS = 30  # what a load may take beyond its time


@dataclass(frozen=True)
class Column:
    """A figure in the table. ``ratio``: also told as a multiple of the reference peer's, under that heading."""

    figure: str
    heading: str
    form: str
    ratio: str = ""
    spread: bool = False


@dataclass(frozen=True)
class Measurement:
    """figures: by name. problems: why they do not count, in words; none when they do."""

    figures: dict[str, float]
    problems: list[str]


class Load(Protocol):
    """A program that puts load on a server, and how its output is read."""

    def command(self, url: str, seconds: int) -> list[str]: ...

    def read(self, output: str, size: int) -> Measurement:
        """``size``: bytes of the body that each answer must have."""
        ...


@dataclass(frozen=True)
class Wrk:
    """wrk on one thread."""

    connections: int

    def command(self, url: str, seconds: int) -> list[str]:
        command = ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
        return [*command, "-s", str(_SUMMARY), url]

    def read(self, output: str, size: int) -> Measurement:
        line = next((line for line in output.splitlines() if line.startswith("{")), None)
        if line is None:
            return Measurement({}, [f"wrk said nothing of use: {output[-500:].strip()}"])
        summary = json.loads(line)
        problems = [f"wrk counted {count} {kind} errors" for kind, count in summary["errors"].items() if count]
        requests = summary["requests"]
        if requests == 0:
            return Measurement({}, [*problems, "no request was answered"])
        if summary["bytes"] < requests * size:
            problems.append(f"{summary['bytes'] / requests:.0f} bytes an answer, and its body alone has {size}")
        figures = {"requests": requests, "requests_per_second": requests / summary["seconds"]}
        return Measurement(figures | {name: summary[name] for name in ("p50_ms", "p99_ms")}, problems)


@dataclass(frozen=True)
class Work:
    """The same for each of ``peers``; ratios are to ``reference``. body: what each answer must be."""

    name: str
    title: str
    path: str
    body: Callable[[Ground], bytes]
    load: Load
    peers: tuple[str, ...]
    reference: str
    columns: tuple[Column, ...]

    def measure(self, server: Server, ground: Ground, seconds: int) -> Measurement:
        """Load for ``seconds`` on a running server, answers checked before and after.

        Adds the greatest RSS in that time (MiB), and the CPU time that the server's processes used in it.
        """
        body = self.body(ground)
        problems = self._wrong(server, body)
        log = ground.folder / f"load-{time.monotonic_ns()}.log"
        before, rss = usage(server.pid), 0
        command = self.load.command(f"http://127.0.0.1:{server.port}{self.path}", seconds)
        with log.open("wb") as output, process_group(command, ground.folder, output) as process:
            rss = _watch(process, server, seconds + _GRACE_SECONDS)
            after = usage(server.pid)
        measured = self.load.read(tail(log), len(body))
        if process.returncode != 0:
            problems.append(f"the load ended with {process.returncode}")
        problems += measured.problems + self._wrong(server, body)
        cpu = after.cpu - before.cpu
        figures = measured.figures | {"rss_mib": max(rss, after.rss) / 2**20, "cpu_seconds": cpu}
        if requests := measured.figures.get("requests"):
            figures["cpu_us_per_request"] = cpu / requests * 1e6
        return Measurement(figures, problems)

    def _wrong(self, server: Server, body: bytes) -> list[str]:
        try:
            status, found = server.get(self.path)
        except (OSError, http.client.HTTPException) as error:
            return [f"no answer: {error!r}"]
        if status != 200:
            return [f"status {status}"]
        return [] if found == body else [f"{len(found)} bytes, not the {len(body)} of the report"]


def _watch(process: subprocess.Popen[bytes], server: Server, seconds: float) -> int:
    """The server's greatest RSS until the load ends, or that time is over."""
    rss = 0
    deadline = time.monotonic() + seconds
    while not has_ended(process) and time.monotonic() < deadline:
        rss = max(rss, usage(server.pid).rss)
        time.sleep(_SAMPLE_SECONDS)
    return rss


REPORT = Work(
    name="report",
    title="a user's report of 20 KB, 50 connections, one worker each",
    path=f"/api/report/{USER}",
    body=lambda ground: ground.report,
    load=Wrk(connections=50),
    peers=("express", "fastapi", "sluice-mysql", "sluice-sqlite"),
    reference="express",
    columns=(
        Column("requests_per_second", "requests/s", ",.0f", ratio="× {}", spread=True),
        Column("p50_ms", "p50 ms", ".1f"),
        Column("p99_ms", "p99 ms", ".1f", ratio="p99 × {}"),
        Column("rss_mib", "RSS MiB", ".0f"),
        Column("cpu_seconds", "CPU s", ".2f"),
        Column("cpu_us_per_request", "CPU µs/request", ".0f"),
    ),
)

WORKS: dict[str, Work] = {work.name: work for work in (REPORT,)}
