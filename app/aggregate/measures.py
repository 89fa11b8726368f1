"""What the views tell to those who measure."""

from __future__ import annotations

from collections.abc import Iterable

from app.aggregate.service import Aggregate
from app.telemetry import families as f
from app.telemetry.metrics import Reading


def aggregate_measures(aggregate: Aggregate) -> Iterable[Reading]:
    for view, sources in aggregate.statistics().sources.items():
        for source, state in sources.items():
            for outcome, times in state.times.items():
                yield f.UPSTREAM, (view, source, outcome), times
            for name in ("closed", "half-open", "open") if state.breaker is not None else ():
                yield f.BREAKER, (view, source, name), float(state.breaker == name)
