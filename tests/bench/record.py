"""What a run leaves: medians and ratios as a table, and everything as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.roster import PEERS
from tests.bench.targets import Target, Verdict, judge
from tests.bench.work import Column, Work

RESULTS = Path(__file__).parent / "results"
_NOTHING = "–"


@dataclass(frozen=True)
class Round:
    """One measurement of one peer. busy_before: the share of all CPUs that others used just before it."""

    work: str
    peer: str
    number: int
    busy_before: float
    figures: dict[str, float]
    problems: list[str]


def busy_share(seconds: float = 0.3) -> float:
    """The share of all CPUs' time that is used now, by whomever."""

    def read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    total, idle = read()
    time.sleep(seconds)
    total_now, idle_now = read()
    return round(1 - (idle_now - idle) / max(1, total_now - total), 3)


def medians(work: Work[Any], rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """By peer and figure, over the rounds without problems; a peer that has none is left out."""
    found: dict[str, dict[str, float]] = {}
    for peer in work.peers:
        good = _good(work, peer, rounds)
        if good:
            names = dict.fromkeys(name for one in good for name in one.figures)
            found[peer] = {name: statistics.median(_values(good, name)) for name in names}
    return found


def ratios(work: Work[Any], middle: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of the medians to the reference's, by peer and figure; none where the reference has none."""
    reference = middle.get(work.reference, {})
    return {
        peer: {name: value / reference[name] for name, value in figures.items() if reference.get(name)}
        for peer, figures in middle.items()
    }


def table(work: Work[Any], rounds: Sequence[Round]) -> str:
    """In Markdown, one line a peer."""
    middle = medians(work, rounds)
    multiples = ratios(work, middle)
    heading, lines = ["peer"], list[list[str]]()
    for column in work.columns:
        heading += [column.heading, *(["least–most"] if column.spread else [])]
        heading += [column.ratio] if column.ratio else []
    for peer in work.peers:
        good = _good(work, peer, rounds)
        line = [PEERS[peer].title]
        for column in work.columns:
            line += _cells(column, good, middle.get(peer, {}), multiples.get(peer, {}))
        lines.append(line)
    return _markdown([heading, *lines])


def verdicts(work: Work[Any], rounds: Sequence[Round]) -> list[Verdict]:
    good = {peer: _good(work, peer, rounds) for peer in work.peers}

    def judged(target: Target) -> Verdict:
        return judge(target, {peer: _values(of_peer, target.figure) for peer, of_peer in good.items()})

    return [judged(target) for target in work.targets]


def verdict_table(found: Sequence[Verdict]) -> str:
    """In Markdown, one line a target."""
    lines = [
        [
            f"{PEERS[one.target.peer].title}: {one.target.words}",
            one.target.bound or _NOTHING,
            _NOTHING if one.found is None else f"{one.found:.2f}",
            one.words or _NOTHING,
        ]
        for one in found
    ]
    return _markdown([["target", "wanted", "found", ""], *lines])


def problems(rounds: Sequence[Round]) -> list[str]:
    return [f"{one.peer}, {one.work}, round {one.number}: {problem}" for one in rounds for problem in one.problems]


def write(
    works: Sequence[Work[Any]], rounds: Sequence[Round], versions: dict[str, dict[str, str]], run: dict[str, Any]
) -> Path:
    """The JSON record of a run, named by the time."""
    now = datetime.now(UTC)
    found: dict[str, Any] = {
        "time": now.isoformat(timespec="seconds"),
        "run": run,
        "commit": _commit(),
        "machine": machine(),
        "versions": versions,
        "works": {},
    }
    for work in works:
        middle = medians(work, rounds)
        found["works"][work.name] = {
            "title": work.title,
            "reference": work.reference,
            "medians": middle,
            "ratios": ratios(work, middle),
            "targets": [asdict(verdict) for verdict in verdicts(work, rounds)],
            "rounds": [asdict(one) for one in rounds if one.work == work.name],
        }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Facts that figures depend on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }


def _good(work: Work[Any], peer: str, rounds: Sequence[Round]) -> list[Round]:
    return [one for one in rounds if (one.work, one.peer) == (work.name, peer) and not one.problems]


def _values(rounds: Sequence[Round], figure: str) -> list[float]:
    return [one.figures[figure] for one in rounds if figure in one.figures]


def _cells(column: Column, good: Sequence[Round], middle: dict[str, float], multiples: dict[str, float]) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return _NOTHING if value is None else format(value, form)

    cells = [cell(middle.get(column.figure), column.form)]
    if column.spread:
        values = _values(good, column.figure)
        cells.append(f"{min(values):{column.form}}–{max(values):{column.form}}" if values else _NOTHING)
    if column.ratio:
        cells.append(cell(multiples.get(column.figure), ".2f"))
    return cells


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(row, [lines[0], rule, *lines[1:]]))


def _commit() -> str:
    """Of the checkout that was measured; with a + where it had changes."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", ":/app") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
