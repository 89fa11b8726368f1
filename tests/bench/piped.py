"""Works of pipelines: a large file through the same steps, by tools from file to file, by servers in and out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.bench.files import CHECKED_BYTES, File, file, full_size, in_words
from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.process_group import cost, usage
from tests.bench.tools import Tool
from tests.bench.transfers import own_load
from tests.bench.work import MIB, Measurement, Watched, Work, load

_MOST_SECONDS = 900  # of one measurement

type Check = Callable[[File, Path], list[str]]
"""What is wrong with a result, in words; nothing, mostly."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


@dataclass(frozen=True, kw_only=True)
class Piped(Work[Server | Tool]):
    """Steps that make the same of each block of a file (``kind`` of it), whatever is before it."""

    kind: str
    steps: tuple[str, ...]
    check: Check

    def lasts(self, seconds: int, *, quick: bool) -> str:
        return in_words(full_size(quick=quick))

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        for size in (full_size(quick=quick), CHECKED_BYTES):
            file(ground, self.kind, size)

    def measure(self, peer: Server | Tool, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        """Takes as long as it takes."""
        source = file(ground, self.kind, full_size(quick=quick))
        if isinstance(peer, Tool):
            return by_tool(peer, source, self.steps, self.check, ground)
        path = transform_path(self.steps)
        size, problems = self._checked(peer, path, ground)
        before = usage(peer.pid)
        summary, watched = sent(peer, "transform", path, source.path, ground)
        problems += summary.pop("problems")
        if not problems and summary["bytes"] != size * source.blocks:
            problems.append(f"{summary['bytes']} bytes came, and {size * source.blocks:.0f} are right")
        memory = {"rss_mib": watched.rss_mib, "growth_mib": watched.growth_mib(before.anon)}
        return Measurement(summary | memory | {"cpu_seconds": watched.cpu}, problems)

    def _checked(self, server: Server, path: str, ground: Ground) -> tuple[float, list[str]]:
        """The size of what comes for one block, and what is wrong with it. It warms the server up, too."""
        small, target = file(ground, self.kind, CHECKED_BYTES), ground.folder / "checked"
        summary, _ = sent(server, "transform", path, small.path, ground, [("output", target)])
        problems = summary["problems"] or self.check(small, target)
        size = target.stat().st_size if target.exists() else 0
        target.unlink(missing_ok=True)
        return size / small.blocks, problems


def transform_path(steps: Sequence[str]) -> str:
    return "/api/transform?" + urlencode([("step", step) for step in steps])


def by_tool(tool: Tool, source: File, steps: Sequence[str], check: Check, ground: Ground) -> Measurement:
    """*Errors*: RuntimeError where it fails."""
    target = ground.folder / "result"
    log = ground.folder / f"tool-{time.monotonic_ns()}.log"
    settle(source.path)
    try:
        command = tool.command(source.path, target, steps)
        used = cost(command, ground.folder, log, _MOST_SECONDS, tool.environment)
        problems = check(source, target)
        lost = _lost_characters(target) if problems and tool.careless else 0
    finally:
        target.unlink(missing_ok=True)
    figures = {
        "seconds": used.seconds,
        "mb_per_second": source.size / used.seconds / 1e6,
        "cpu_seconds": used.cpu,
        "rss_mib": used.rss / MIB,
    }
    return Measurement(figures | ({"lost": lost} if tool.careless else {}), [] if lost else problems)


def sent(
    server: Server,
    kind: str,
    path: str,
    source: Path | None,
    ground: Ground,
    options: Sequence[tuple[str, object]] = (),
) -> tuple[dict[str, Any], Watched]:
    """A load of `sending.py`, to its end: what it says, with its problems, and what the server used meanwhile."""
    if source is not None:
        settle(source)
        options = [("file", source), *options]
    with load(own_load(kind, server, path, options), ground) as loading:
        watched = loading.watch_to_end(server, _MOST_SECONDS)
    return loading.summary(), watched


def settle(source: Path) -> None:
    """Puts ``source`` into the page cache, and has the kernel write what is left to write."""
    os.sync()
    with source.open("rb", buffering=0) as opened:
        while opened.read(1 << 20):
            pass


def _lost_characters(result: Path) -> int:
    """Replacement characters, each a part of one that was there."""
    found, tail = 0, b""
    with result.open("rb") as opened:
        while part := opened.read(1 << 20):
            part = tail + part
            found += part.count(_REPLACEMENT)
            tail = b"" if part.endswith(_REPLACEMENT) else part[1 - len(_REPLACEMENT) :]
    return found
