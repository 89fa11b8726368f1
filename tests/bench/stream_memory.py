"""Works that ask what pipelines cost in memory: large bodies taken fast, and slowly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.files import CHECKED_BYTES, file, full_size, in_words
from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.piped import sent, transform_path
from tests.bench.process_group import usage
from tests.bench.targets import Target
from tests.bench.work import Column, Measurement, Work

_FILES = 10  # of full size, in a body that is sent to its end
_ENDLESS_FILES = 500  # in one that is left
_SLOW_BYTES_PER_SECOND = 1_000_000
_SLOW_SECONDS, _QUICK_SLOW_SECONDS = 60, 3
_MOST_MIB = 32

type Options = list[tuple[str, object]]


@dataclass(frozen=True)
class Pipeline:
    """whole: a body of `_FILES` files goes through it; through others goes what does in the work's seconds.

    slow: also with a reader that takes `_SLOW_BYTES_PER_SECOND`.
    """

    name: str
    kind: str
    steps: tuple[str, ...]
    whole: bool = False
    slow: bool = False


@dataclass(frozen=True, kw_only=True)
class Memory(Work[Server]):
    """One server, and each pipeline in turn."""

    pipelines: tuple[Pipeline, ...]

    def lasts(self, seconds: int, *, quick: bool) -> str:
        whole = in_words(_FILES * full_size(quick=quick))
        return f"{whole} in one body, {seconds} s of others, {_slow_seconds(quick=quick)} s of slow readers"

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        for kind in {pipeline.kind for pipeline in self.pipelines}:
            for size in (full_size(quick=quick), CHECKED_BYTES):
                file(ground, kind, size)

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        """A small body goes through each before: what libraries take for good must not count as growth."""
        problems = self._warm_up(peer, ground)
        start = usage(peer.pid)
        growth, group, figures = dict[str, float](), list[float](), dict[str, float]()
        for name, pipeline, options in [] if problems else self._runs(seconds, quick=quick):
            body = file(ground, pipeline.kind, full_size(quick=quick))
            summary, watched = sent(peer, "transform", transform_path(pipeline.steps), body.path, ground, options)
            problems += [f"{name}: {problem}" for problem in summary["problems"]]
            growth[f"{name}_mib"] = watched.serving_growth_mib(start.serving)
            group.append(watched.growth_mib(start.anon))
            figures |= {f"{figure}_{name}": summary[figure] for figure in ("sent", "bytes") if figure in summary}
        if growth:
            figures |= growth | {"growth_mib": max(growth.values()), "group_mib": max(group)}
            figures["sent_gb"] = sum(value for name, value in figures.items() if name.startswith("sent_")) / 1e9
        return Measurement(figures, problems)

    def _warm_up(self, server: Server, ground: Ground) -> list[str]:
        problems = list[str]()
        for pipeline in self.pipelines:
            small = file(ground, pipeline.kind, CHECKED_BYTES)
            summary, _ = sent(server, "transform", transform_path(pipeline.steps), small.path, ground)
            problems += [f"{pipeline.name}: {problem}" for problem in summary["problems"]]
        return problems

    def _runs(self, seconds: int, *, quick: bool) -> Iterator[tuple[str, Pipeline, Options]]:
        for pipeline in self.pipelines:
            whole: Options = [("repeat", _FILES)]
            yield pipeline.name, pipeline, whole if pipeline.whole else _endless(seconds)
        for pipeline in self.pipelines:
            if pipeline.slow:
                options = _endless(_slow_seconds(quick=quick))
                yield f"{pipeline.name}_slow", pipeline, [*options, ("rate", _SLOW_BYTES_PER_SECOND)]


def _slow_seconds(*, quick: bool) -> int:
    return _QUICK_SLOW_SECONDS if quick else _SLOW_SECONDS


def _endless(seconds: int) -> Options:
    return [("repeat", _ENDLESS_FILES), ("seconds", seconds)]


def _columns(*names: str) -> tuple[Column, ...]:
    return (
        Column("growth_mib", "growth MiB (RssAnon of the server), at most", ",.1f", spread=True),
        *(Column(f"{name}_mib", name.replace("_", ", "), ",.1f") for name in names),
        Column("group_mib", "with its worker processes", ",.1f"),
        Column("sent_gb", "GB sent", ",.1f"),
    )


MEMORY = Memory(
    name="transform-memory",
    title="a large body through upper, endless ones through others, then readers at 1 MB/s",
    pipelines=(
        Pipeline("upper", "ascii", ("upper",), whole=True, slow=True),
        Pipeline("csv", "csv", ("csv-to-ndjson",), slow=True),
        Pipeline("gzip", "ascii", ("gzip",)),
        Pipeline("zstd", "ascii", ("zstd",)),
        Pipeline("csv_gzip", "csv", ("csv-to-ndjson", "gzip"), slow=True),
    ),
    peers=("sluice-mysql",),
    reference="sluice-mysql",
    rounds=2,
    factor=2,
    columns=_columns("upper", "csv", "gzip", "zstd", "csv_gzip", "upper_slow", "csv_slow", "csv_gzip_slow"),
    targets=(
        Target("growth in MiB, of the worst round", "sluice-mysql", "growth_mib", at_most=_MOST_MIB, worst=True),
        Target("with its worker processes", "sluice-mysql", "group_mib", worst=True),
    ),
)

RECORDS_MEMORY = Memory(
    name="records-memory",
    title="a large body of CSV through steps of records, then a reader at 1 MB/s",
    pipelines=(
        Pipeline(
            "records", "csv", ("csv-to-ndjson", "where:state == late", "select:number,value"), whole=True, slow=True
        ),
    ),
    peers=("sluice-mysql",),
    reference="sluice-mysql",
    rounds=2,
    factor=2,
    columns=_columns("records", "records_slow"),
    targets=(
        Target("growth in MiB, of the worst round", "sluice-mysql", "growth_mib", at_most=_MOST_MIB, worst=True),
        Target("with its worker processes", "sluice-mysql", "group_mib", worst=True),
    ),
)
