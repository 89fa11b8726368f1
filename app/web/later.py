"""Answers that outlive their requests: jobs that were preferred to waiting, and answers kept by an idempotency key."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager

import msgspec
import trio

from app.compute.engine import Call
from app.compute.payload import Inline
from app.compute.service import Prepared
from app.flow.request import current_request
from app.http.answers import Answer, Fields
from app.http.prefer import Preferences, preference_applied
from app.http.problems import MEDIA_TYPE, document_of
from app.jobs.job import Job, url_of
from app.jobs.routes import job_answer
from app.jobs.service import Jobs
from app.storage.idempotency import Claim, IdempotencyKeys, KeptAnswer

_JSON = (b"content-type", b"application/json")
# What a job is called whose request only a worker has looked into.
_UNKNOWN_TASK = "(in its request)"
# Of the time that a request has, for how much it may wait at most: it has to be answered in the rest.
_WAITING_SHARE = 0.9


class Later:
    """`app.compute.later.Later`. deadline: of every request, in seconds."""

    def __init__(self, jobs: Jobs[Call], keys: IdempotencyKeys, deadline: float) -> None:
        self._jobs = jobs
        self._keys = keys
        self._deadline = deadline

    @asynccontextmanager
    async def claim(self, route: str, key: str, fingerprint: str) -> AsyncGenerator[_Claim]:
        async with self._keys.claim(route, key, fingerprint) as claim:
            yield _Claim(claim)

    async def begin(self, prepared: Prepared, preferences: Preferences, resources: ExitStack) -> Answer:
        call, task = prepared.call, prepared.task
        # What reads a report would be run again with another one, if that was replaced.
        again = call.payload.data if task and task.retry and isinstance(call.payload, Inline) else None
        job = await self._jobs.begin(
            task.name if task else _UNKNOWN_TASK,
            call,
            retry_call=None if call.reports else again,
            resources=resources.pop_all(),
        )
        if preferences.wait is None:
            return _accepted(job, Preferences(respond_async=True))
        try:
            most = self._longest_wait()
            job = await self._jobs.wait(job.id, min(preferences.wait, most))
            if job.is_over:
                return await self._ended(job, Preferences(wait=preferences.wait))
            if most < preferences.wait:  # which then is not what was done (RFC 7240 3)
                preferences = Preferences(preferences.respond_async)
        except BaseException:
            # Whoever leaves now has not been told of the job.
            with trio.CancelScope(shield=True):
                await self._jobs.cancel(job.id)
            raise
        return _accepted(job, preferences)

    def _longest_wait(self) -> float:
        left = trio.current_effective_deadline() - trio.current_time()
        return _WAITING_SHARE * max(0.0, min(left, self._deadline))

    async def _ended(self, job: Job, applied: Preferences) -> Answer:
        """As the request would have been answered without a job."""
        where = _where(job, b"content-location", applied)
        if job.state != "succeeded":
            problem = msgspec.json.decode(job.error or b"{}")
            fields = ((b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store"), *where)
            return Answer(problem.get("status", 500), fields, document_of(problem, current_request.get().id))
        result = await self._jobs.result(job)
        if isinstance(result, bytes):
            return Answer(200, (_JSON, *where), b'{"result":%b}' % result)
        result.close()
        # It is in a file, and can be had from there as it is.
        return Answer(303, ((b"location", f"{url_of(job.id)}/result".encode()), *where))


class _Claim:
    """A claim, in answers."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    @property
    def kept(self) -> Answer | None:
        kept = self._claim.kept
        return kept and Answer(kept.status, [(name, value) for name, value in kept.fields], kept.body)

    async def keep(self, answer: Answer) -> object:
        body = answer.body if isinstance(answer.body, bytes) else b""
        return await self._claim.keep(KeptAnswer(answer.status, answer.headers, body))


def _accepted(job: Job, applied: Preferences) -> Answer:
    answer = job_answer(job, 202)
    return Answer(answer.status, (*answer.headers, *_applied(applied)), answer.body)


def _where(job: Job, name: bytes, applied: Preferences) -> Fields:
    return ((name, url_of(job.id).encode()), *_applied(applied))


def _applied(applied: Preferences) -> Fields:
    value = preference_applied(applied)
    return () if value is None else ((b"preference-applied", value.encode()),)
