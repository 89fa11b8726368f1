"""A snapshot as Prometheus reads it: its text format, or OpenMetrics, which has exemplars too. No Trio."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import prometheus_client.openmetrics.exposition
from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from app.telemetry.families import FAMILIES, Family
from app.telemetry.snapshots import Distribution, Samples, Snapshot, add

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def expose(snapshot: Snapshot, *, open_metrics: bool) -> bytes:
    """All families, also those of which there is nothing yet."""
    collector = _Told(snapshot)
    return _open_metrics(collector) if open_metrics else generate_latest(collector)


def add_process(snapshot: Snapshot) -> None:
    """What the operating system and the interpreter say of this process. It reads files of ``/proc``."""
    for collector in _COLLECTORS:
        for metric in collector.collect():
            for sample in metric.samples:
                if (family := FAMILIES.get(sample.name)) is not None:
                    add(snapshot, family, tuple(sample.labels[label] for label in family.labels), sample.value)


_open_metrics = cast(
    "Callable[[Collector], bytes]", cast("Any", prometheus_client.openmetrics.exposition).generate_latest
)
_COLLECTORS: tuple[Collector, ...] = (
    ProcessCollector(registry=CollectorRegistry()),
    GCCollector(registry=CollectorRegistry()),
    PlatformCollector(registry=CollectorRegistry()),
)


class _Told(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        return (_metric(family, self._snapshot.get(family.name, {})) for family in FAMILIES.values())


def _metric(family: Family, samples: Samples) -> Metric:
    metric = Metric(family.name.removesuffix("_total"), family.meaning, family.kind)
    # A family without labels has a value from the first moment on.
    if not family.labels and not samples:
        empty = Distribution([0] * (len(family.buckets) + 1), 0.0)
        samples = {(): empty if family.kind == "histogram" else 0.0}
    for values, value in sorted(samples.items()):
        labels = dict(zip(family.labels, values, strict=True))
        if isinstance(value, Distribution):
            _add_buckets(metric, family, labels, value)
        else:
            metric.add_sample(family.name, labels, value)
    return metric


def _add_buckets(metric: Metric, family: Family, labels: Mapping[str, str], value: Distribution) -> None:
    seen = 0
    for number, (bound, count) in enumerate(zip((*family.buckets, math.inf), value.counts, strict=True)):
        seen += count
        one = value.exemplars.get(number)
        exemplar = None if one is None else Exemplar({"trace_id": one.trace_id}, one.value, one.when)
        metric.add_sample(f"{family.name}_bucket", {**labels, "le": _text(bound)}, seen, exemplar=exemplar)
    metric.add_sample(f"{family.name}_sum", dict(labels), value.total)
    metric.add_sample(f"{family.name}_count", dict(labels), seen)


def _text(bound: float) -> str:
    return "+Inf" if bound == math.inf else repr(float(bound))
