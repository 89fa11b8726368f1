"""What the engine tells to those who measure."""

from __future__ import annotations

from collections.abc import Iterable

from app.compute.endings import KILLED_BY
from app.compute.engine import Engine
from app.telemetry import families as f
from app.telemetry.metrics import Reading


def engine_measures(engine: Engine) -> Iterable[Reading]:
    state = engine.statistics()
    yield f.COMPUTE_WORKERS, ("busy",), state.running
    yield f.COMPUTE_WORKERS, ("idle",), max(0, state.ready - state.running)
    yield f.COMPUTE_WORKERS, ("starting",), max(0, state.workers - state.ready)
    yield f.COMPUTE_QUEUE, (), state.waiting
    yield f.COMPUTE_QUEUE_MAX, (), state.most_waiting
    yield f.COMPUTE_WAIT, (), state.waits
    for task, times in state.runs.items():
        yield f.COMPUTE_RUN, (task,), times
    # Also those of which there is none yet: Prometheus takes a first value for no change.
    for reason in KILLED_BY:
        yield f.COMPUTE_KILLED, (reason,), state.killed_by.get(reason, 0)
