"""Works of reports that come in, and of the list of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.checks import ends, is_copy
from tests.bench.files import CHECKED_BYTES, file, full_size, in_words
from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.piped import by_tool, sent
from tests.bench.process_group import usage
from tests.bench.targets import Target
from tests.bench.tools import Tool
from tests.bench.work import Column, Measurement, Watched, Work
from tests.bench.wrk import REPORT_PATH, warm_up

_KIND = "ascii"
_USER = "stored"
_REPORT = f"/api/report/{_USER}"
_LIST = "/api/reports?format=ndjson"
_ROWS, _QUICK_ROWS = 1_000_000, 20_000


@dataclass(frozen=True, kw_only=True)
class Stored(Work[Server | Tool]):
    """A large file, made a user's report."""

    def lasts(self, seconds: int, *, quick: bool) -> str:
        return in_words(full_size(quick=quick))

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        for size in (full_size(quick=quick), CHECKED_BYTES):
            file(ground, _KIND, size)

    def measure(self, peer: Server | Tool, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        """What was stored is compared on the disk, and removed."""
        source = file(ground, _KIND, full_size(quick=quick))
        if isinstance(peer, Tool):
            return by_tool(peer, source, (), is_copy, ground)
        warm_up(peer, ground, REPORT_PATH, 8)
        small, _ = sent(peer, "put", _REPORT, file(ground, _KIND, CHECKED_BYTES).path, ground)
        before = usage(peer.pid)
        summary, watched = sent(peer, "put", _REPORT, source.path, ground)
        problems = small["problems"] + summary.pop("problems")
        if not problems:
            problems = is_copy(source, ground.stored(_USER))
        status, said = peer.ask("DELETE", _REPORT, seconds=60)
        if status != 204 and not problems:
            problems.append(f"status {status} of DELETE: {said[:200]!r}")
        return Measurement(summary | _used(watched, before.anon), problems)


@dataclass(frozen=True, kw_only=True)
class Listed(Work[Server]):
    """All reports, one a line, straight from the database."""

    def lasts(self, seconds: int, *, quick: bool) -> str:
        return f"{_rows(quick=quick):,} rows"

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        ground.add_rows(_rows(quick=quick))

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        """The list comes once more after that which counts, to be looked at."""
        warm_up(peer, ground, REPORT_PATH, 8)
        before = usage(peer.pid)
        summary, watched = sent(peer, "get", _LIST, None, ground)
        target = ground.folder / "listed.ndjson"
        again, _ = sent(peer, "get", _LIST, None, ground, [("output", target)])
        problems = summary.pop("problems") + again["problems"]
        if not problems:
            problems = list_problems(target, summary["bytes"], _rows(quick=quick))
            summary["rows_per_second"] = _rows(quick=quick) / summary["seconds"]
        target.unlink(missing_ok=True)
        return Measurement(summary | _used(watched, before.anon), problems)


def list_problems(result: Path, size: int, rows: int) -> list[str]:
    """What is wrong with a list of ``rows`` reports that is to have ``size`` bytes, in words."""
    lines, first, last = ends(result)
    problems = [] if lines == rows else [f"{lines} lines for {rows} rows"]
    if result.stat().st_size != size:
        problems.append(f"{size} bytes at first, then {result.stat().st_size}")
    users = [_user(line) for line in (first, last)]
    if not all(users) or sorted(users) != users:
        problems.append(f"ends that are no reports in order: {first[:100]!r}, {last[:100]!r}")
    return problems


def _rows(*, quick: bool) -> int:
    return _QUICK_ROWS if quick else _ROWS


def _user(line: bytes) -> str:
    try:
        found: Any = json.loads(line)
        return str(found["user_id"])
    except (ValueError, LookupError, TypeError):
        return ""


def _used(watched: Watched, start: int) -> dict[str, float]:
    return {"growth_mib": watched.growth_mib(start), "rss_mib": watched.rss_mib, "cpu_seconds": watched.cpu}


_USED = (
    Column("growth_mib", "growth MiB (RssAnon)", ",.1f"),
    Column("rss_mib", "RSS MiB", ",.0f"),
    Column("cpu_seconds", "CPU s", ".2f"),
)

PUT = Stored(
    name="put",
    title="a file stored as a user's report, beside cp and sha256sum of it",
    peers=("cp-sha256sum", "sluice-mysql"),
    reference="cp-sha256sum",
    columns=(
        Column("mb_per_second", "MB/s", ",.0f", ratio="× cp, sha256sum", spread=True),
        Column("seconds", "s", ".2f"),
        *_USED,
    ),
    targets=(
        Target("MB/s ÷ cp's and sha256sum's", "sluice-mysql", "mb_per_second", to="cp-sha256sum", at_least=0.5),
        Target("growth in MiB, of the worst round", "sluice-mysql", "growth_mib", at_most=16, worst=True),
    ),
)

LIST = Listed(
    name="list",
    title="the list of all reports as NDJSON",
    peers=("sluice-listing",),
    reference="sluice-listing",
    columns=(
        Column("rows_per_second", "rows/s", ",.0f", spread=True),
        Column("first_byte_ms", "first byte ms", ",.1f", spread=True),
        Column("mb_per_second", "MB/s", ",.0f"),
        *_USED,
    ),
    targets=(
        Target("first byte in ms", "sluice-listing", "first_byte_ms", at_most=100),
        Target("growth in MiB, of the worst round", "sluice-listing", "growth_mib", at_most=16, worst=True),
    ),
)
