"""What a job is, how it changes, and what a client is shown of it. Every change is decided here, without I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from app.errors import JobLost, ShuttingDown, SluiceError, TaskCancelled
from app.http.problems import content_of

type State = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]

ACTIVE: tuple[State, State] = ("queued", "running")

INLINE_BYTES = 64 * 1024
"""A result up to here is shown with its job; a larger one has to be asked for."""

_MOST_TASK_CHARACTERS = 128
_MOST_MESSAGE_CHARACTERS = 1000


class Progress(msgspec.Struct, frozen=True):
    """done, total: in units of the task's own."""

    done: float = 0
    total: float | None = None
    message: str = ""


class Job(msgspec.Struct, frozen=True):
    """One call that outlives its request, as it was at one moment.

    revision: rises with each change that a client sees. owner: the instance that runs it.
    created, started, finished: seconds since the epoch. result: JSON, where it is of `INLINE_BYTES` at most;
    has_result: whether there is one at all. error: JSON, the content of a problem document.
    """

    id: str
    task: str
    state: State
    revision: int
    owner: str
    created: float
    progress: Progress = Progress()
    started: float | None = None
    finished: float | None = None
    result: bytes | None = None
    has_result: bool = False
    error: bytes | None = None

    @property
    def is_over(self) -> bool:
        return self.state not in ACTIVE


@dataclass(frozen=True)
class Ending:
    """How a job ends. result: JSON, of one that succeeded; error: of any other."""

    state: Literal["succeeded", "failed", "cancelled", "lost"]
    result: bytes | None = None
    error: SluiceError | None = None


# -- how it changes ----------------------------------------------------------------------------------------------------


def new_job(id: str, task: str, owner: str, now: float) -> Job:
    return Job(id, task[:_MOST_TASK_CHARACTERS], "queued", 1, owner, now)


def told(done: float, total: float | None, message: str) -> Progress:
    """Progress as any database can keep it, whatever a task said."""
    return Progress(
        float(done) if math.isfinite(done) else 0.0,
        float(total) if total is not None and math.isfinite(total) else None,
        message[:_MOST_MESSAGE_CHARACTERS].encode(errors="replace").decode(),
    )


def moved(job: Job, state: Literal["queued", "running", "ended"], progress: Progress, now: float) -> Job:
    """The job once its engine says this of it; the same where a client sees no difference. What is over stays."""
    if job.is_over:
        return job
    if state == "running" and job.state == "queued":
        return replace(job, state="running", started=max(now, job.created), progress=progress)
    return job if progress == job.progress else replace(job, progress=progress)


def ended(job: Job, ending: Ending, now: float) -> Job:
    """The job once it has ended. What is over stays: whoever comes first, decides."""
    if job.is_over:
        return job
    finished = max(now, job.created, job.started or 0.0)
    # One that was quick was never seen to run.
    started = finished if job.started is None and ending.state == "succeeded" else job.started
    shown = ending.result if ending.result is not None and len(ending.result) <= INLINE_BYTES else None
    return replace(
        job,
        state=ending.state,
        started=started,
        finished=finished,
        result=shown,
        has_result=ending.result is not None,
        error=None if ending.error is None else msgspec.json.encode(content_of(ending.error)),
    )


def ending_of(error: SluiceError) -> Ending:
    """How a job ends whose call ended by ``error``."""
    stopped = isinstance(error, TaskCancelled | ShuttingDown)
    return Ending("cancelled" if stopped else "failed", error=error)


def cut() -> Ending:
    return ending_of(ShuttingDown("the server was shut down before the job had finished"))


def orphaned(job: Job, heir: str, now: float, *, may_run_again: bool, cancel_requested: bool) -> Job:
    """The job of an instance that died: run again by ``heir`` where its task allows that, unless somebody has cancelled
    it; otherwise over."""
    if job.is_over:
        return job
    if cancel_requested:
        after = ended(job, ending_of(TaskCancelled("the job was cancelled")), now)
    elif may_run_again:
        after = replace(job, state="queued", owner=heir, started=None, progress=Progress())
    else:
        after = ended(job, Ending("lost", error=JobLost("the server that ran the job has died")), now)
    return replace(after, revision=job.revision + 1)


# -- what is shown of it -----------------------------------------------------------------------------------------------


class Description(msgspec.Struct):
    """A job, as clients see it. Times are those of RFC 3339.

    result: null also where it is too large to be shown here; ``result_url`` then is where it is.
    """

    id: str
    task: str
    state: State
    progress: Progress
    created: str
    started: str | None
    finished: str | None
    result: msgspec.Raw | None
    result_url: str | None
    error: msgspec.Raw | None


def describe(job: Job) -> Description:
    return Description(
        job.id,
        job.task,
        job.state,
        job.progress,
        _moment(job.created),
        None if job.started is None else _moment(job.started),
        None if job.finished is None else _moment(job.finished),
        None if job.result is None else msgspec.Raw(job.result),
        f"{url_of(job.id)}/result" if job.has_result else None,
        None if job.error is None else msgspec.Raw(job.error),
    )


def url_of(id: str) -> str:
    return f"/api/jobs/{id}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
