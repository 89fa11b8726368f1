"""What jobs tell to those who measure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.jobs.service import Jobs
from app.telemetry import families as f
from app.telemetry.metrics import Reading


def jobs_measures(jobs: Jobs[Any]) -> Iterable[Reading]:
    state = jobs.statistics()
    yield f.JOBS, ("queued",), state.queued
    yield f.JOBS, ("running",), state.running
    # Also those of which there is none yet: Prometheus takes a first value for no change.
    for ending in ("succeeded", "failed", "cancelled", "lost"):
        yield f.JOBS_ENDED, (ending,), state.ended.get(ending, 0)
