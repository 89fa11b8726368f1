"""The HTTP side of jobs."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from quart import Blueprint, request

from app.errors import JobNotFinished
from app.flow.drain import DrainGate
from app.http.answers import Answer, Fields, FilePart, Streamed
from app.http.events import STREAM_FIELDS, parse_last_event_id
from app.http.queries import only, parse_query
from app.jobs.feed import open_feed
from app.jobs.job import Job, describe, url_of
from app.jobs.service import Jobs

_ENDED = {"failed": "failed", "cancelled": "been cancelled", "lost": "been lost"}
_NOT_KEPT = (b"cache-control", b"no-store")
_JSON: Fields = ((b"content-type", b"application/json"), _NOT_KEPT)


def jobs_blueprint[C](jobs: Jobs[C], gate: DrainGate) -> Blueprint:
    blueprint = Blueprint("jobs", __name__)

    async def show(job_id: str) -> Answer:
        """The job: its state, progress, and, unless it is large, its result."""
        return job_answer(await jobs.find(job_id))

    async def cancel(job_id: str) -> Answer:
        """Cancels the job, and waits until it is over; one that is over stays as it is."""
        job = await jobs.cancel(job_id)
        return Answer(204, (_NOT_KEPT,)) if job.is_over else job_answer(job, 202)

    async def result(job_id: str) -> Answer:
        """What the job's task returned, as JSON; 409 where there is no result, or not yet."""
        job = await jobs.find(job_id)
        if job.state != "succeeded":
            raise _no_result(job)
        kept = await jobs.result(job)
        return Answer(200, _JSON, kept if isinstance(kept, bytes) else FilePart(kept, 0, kept.size))

    async def events(job_id: str) -> Answer:
        """The job as server-sent events: whenever it changes, until it is over."""
        seen = _seen()
        job = await jobs.find(job_id)
        if seen > job.revision:  # which nobody can have seen: an id of something else
            seen = 0
        if job.is_over and job.revision == seen:
            return Answer(204, (_NOT_KEPT,))  # by which an EventSource knows not to come again
        return Answer(200, STREAM_FIELDS, Streamed(open_feed(jobs, job, seen, gate)))

    # Our application takes an `Answer`, which Quart's types do not know of.
    for rule, view, method in (
        ("", show, "GET"),
        ("", cancel, "DELETE"),
        ("/result", result, "GET"),
        ("/events", events, "GET"),
    ):
        blueprint.add_url_rule(f"{url_of('<job_id>')}{rule}", view_func=cast("Any", view), methods=[method])
    return blueprint


def job_answer(job: Job, status: int = 200) -> Answer:
    """The job, and where it is: also what a request is answered with, with 202, that has begun it."""
    fields = _JSON if status == 200 else (*_JSON, (b"location", url_of(job.id).encode()))
    return Answer(status, fields, msgspec.json.encode(describe(job)))


def _no_result(job: Job) -> JobNotFinished:
    if job.is_over:
        cause = None if job.error is None else msgspec.Raw(job.error)
        return JobNotFinished(f"the job has {_ENDED[job.state]}", members={"state": job.state, "cause": cause})
    return JobNotFinished(f"the job is {job.state}", retry_after=1, members={"state": job.state})


def _seen() -> int:
    """The revision that the client has seen last; 0 where it has seen none."""
    said = request.headers.get("Last-Event-ID") or only(parse_query(request.query_string), "last_event_id")
    id = parse_last_event_id(None if said is None else said.encode("latin-1", "replace"))
    return int(id) if id is not None and id.isascii() and id.isdigit() and len(id) < 19 else 0
