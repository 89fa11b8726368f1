"""How a job changes, whatever happens to it, and what is shown of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import (
    DeadlineExceeded,
    ShuttingDown,
    SluiceError,
    TaskCancelled,
    TaskFailed,
    TaskOutOfMemory,
    WorkerCrashed,
)
from app.jobs.job import (
    ACTIVE,
    INLINE_BYTES,
    Ending,
    Job,
    Progress,
    cut,
    describe,
    ended,
    ending_of,
    moved,
    new_job,
    orphaned,
    told,
)

JOB = new_job("0" * 32, "task", "me", 1000.0)
RUNNING = moved(JOB, "running", Progress(), 1001.0)


@dataclass(frozen=True)
class Moved:
    state: Literal["queued", "running", "ended"]
    progress: Progress


@dataclass(frozen=True)
class Died:
    may_run_again: bool
    cancel_requested: bool


texts = st.text(st.characters(categories=None), max_size=2000)  # lone surrogates too
progresses = st.builds(told, st.floats(), st.none() | st.floats(), texts)
endings = st.sampled_from(
    [
        Ending("succeeded", b"1"),
        Ending("succeeded", b"1" * (INLINE_BYTES + 1)),
        ending_of(TaskFailed("no")),
        ending_of(TaskCancelled("no")),
        cut(),
    ]
)
events = st.one_of(
    st.builds(Moved, st.sampled_from(["queued", "running", "ended"]), progresses),
    st.builds(Died, st.booleans(), st.booleans()),
    endings,
)


def changed(job: Job, event: Moved | Died | Ending, now: float) -> Job:
    match event:
        case Moved(state, progress):
            return moved(job, state, progress, now)
        case Died(may_run_again, cancel_requested):
            return orphaned(job, "heir", now, may_run_again=may_run_again, cancel_requested=cancel_requested)
        case Ending():
            return ended(job, event, now)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(events, st.floats(0, 2000)), max_size=12))
def test_whatever_happens_a_job_makes_sense(happened: list[tuple[Moved | Died | Ending, float]]) -> None:
    job = JOB
    for event, now in happened:  # by any clock: those of instances differ
        after = changed(job, event, now)
        if job.is_over:
            assert after == job
        if job.state == "running" and after.state == "queued":
            assert isinstance(event, Died)
            assert (after.owner, after.started, after.progress) == ("heir", None, Progress())
        assert after.revision >= job.revision
        assert (after.id, after.task, after.created) == (job.id, job.task, job.created)
        assert after.is_over == (after.finished is not None) == (after.state not in ACTIVE)
        assert after.has_result == (after.state == "succeeded")
        assert (after.error is not None) == (after.state in {"failed", "cancelled", "lost"})
        moments = [at for at in (after.created, after.started, after.finished) if at is not None]
        assert moments == sorted(moments)
        if after.state in {"running", "succeeded"}:
            assert after.started is not None
        shown = json.loads(msgspec.json.encode(describe(after)))
        assert shown["state"] == after.state
        job = after


def test_a_difference_that_nobody_sees_is_none() -> None:
    assert moved(JOB, "queued", Progress(), 5) is JOB
    assert moved(RUNNING, "running", Progress(), 5) is RUNNING
    assert moved(RUNNING, "queued", Progress(), 5) is RUNNING
    assert moved(RUNNING, "running", Progress(1), 5).progress == Progress(1)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TaskFailed("x"), "failed"),
        (TaskOutOfMemory("x"), "failed"),
        (WorkerCrashed("x"), "failed"),
        (DeadlineExceeded("x"), "failed"),
        (TaskCancelled("x"), "cancelled"),
        (ShuttingDown("x"), "cancelled"),
    ],
)
def test_how_a_job_ends_whose_call_ended_by_an_error(error: SluiceError, state: str) -> None:
    over = ended(RUNNING, ending_of(error), 1002.0)
    assert over.state == state
    shown: Any = json.loads(over.error or b"")
    assert (shown["type"], shown["status"]) == (f"urn:sluice:error:{error.name}", error.status)


@pytest.mark.parametrize(
    ("may_run_again", "cancel_requested", "state"),
    [(True, False, "queued"), (False, False, "lost"), (True, True, "cancelled"), (False, True, "cancelled")],
)
def test_what_becomes_of_the_job_of_a_dead_instance(may_run_again: bool, cancel_requested: bool, state: str) -> None:
    after = orphaned(RUNNING, "heir", 1002.0, may_run_again=may_run_again, cancel_requested=cancel_requested)
    assert (after.state, after.revision) == (state, RUNNING.revision + 1)
    assert after.owner == ("heir" if state == "queued" else "me")


@given(st.floats(), st.none() | st.floats(), texts)
def test_whatever_a_task_says_can_be_kept(done: float, total: float | None, message: str) -> None:
    progress = told(done, total, message)
    assert math.isfinite(progress.done)
    assert progress.total is None or math.isfinite(progress.total)
    assert len(progress.message.encode()) <= 4000


def test_a_job_is_shown_as_the_contract_says() -> None:
    over = ended(moved(RUNNING, "running", Progress(1, 2, "half"), 1), Ending("succeeded", b'{"a":[1]}'), 1002.5)
    assert json.loads(msgspec.json.encode(describe(over))) == {
        "id": "0" * 32,
        "task": "task",
        "state": "succeeded",
        "progress": {"done": 1, "total": 2, "message": "half"},
        "created": "1970-01-01T00:16:40.000Z",
        "started": "1970-01-01T00:16:41.000Z",
        "finished": "1970-01-01T00:16:42.500Z",
        "result": {"a": [1]},
        "result_url": f"/api/jobs/{'0' * 32}/result",
        "error": None,
    }
    shown = json.loads(msgspec.json.encode(describe(JOB)))
    assert (shown["started"], shown["finished"], shown["result"], shown["result_url"]) == (None,) * 4
