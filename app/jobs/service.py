"""The use cases of jobs: begin one, look at it, wait for it, cancel it, take its result."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from app.errors import JobNotFound
from app.flow.drain import DrainGate
from app.flow.threads import ThreadPool
from app.jobs.engine import Engine
from app.jobs.job import Job, new_job
from app.jobs.results import Results, open_results
from app.jobs.runs import Runs
from app.jobs.store import Store
from app.jobs.upkeep import Upkeep
from app.settings import JobSettings
from app.storage.blobs import Blob
from app.storage.database import Database
from app.storage.lookup import Lookup, open_lookup

_ID = re.compile(r"[0-9a-f]{32}")
# A job of another instance is asked for that often: soon at first, then less so.
_LEAST_POLL_SECONDS = 0.05
_MOST_POLL_SECONDS = 0.5
# On top of the grace period: until its owner has looked for cancellations, and its end is written.
_CANCEL_SECONDS = 2.0
_CLOSE_SECONDS = 10.0


class Instances(Protocol):
    """Who runs on this database. id: of this process."""

    @property
    def id(self) -> str: ...
    def when_dead(self, callback: Callable[[str], Awaitable[None]], /) -> None: ...


@dataclass(frozen=True)
class JobStatistics:
    """queued, running: jobs of this process now. ended: since the start, by the state they came to."""

    queued: int
    running: int
    ended: Mapping[str, int] = field(default_factory=dict[str, int])


class Jobs[C]:
    """Jobs of all instances. *Errors* of everything here: those of the database."""

    def __init__(
        self, runs: Runs[C], store: Store, results: Results, lookup: Lookup[Job], owner: str, grace: float
    ) -> None:
        self._runs = runs
        self._store = store
        self._results = results
        self._lookup = lookup
        self._owner = owner
        self._grace = grace

    async def begin(
        self, task: str, call: C, *, retry_call: bytes | None = None, resources: ExitStack | None = None
    ) -> Job:
        """A new job, admitted and queued: it runs on when the request is gone.

        retry_call: what it may be run again with, once, where this instance dies; None where it must not be.
        resources: are closed when the job has ended, or was not begun.

        *Cancellation*: there is no job. *Errors*: Overloaded, ShuttingDown; likewise.
        """
        job = new_job(secrets.token_hex(16), task, self._owner, time.time())
        await self._runs.begin(job, call, retry_call, ExitStack() if resources is None else resources)
        return job

    async def find(self, id: str) -> Job:
        """The job as it is now. *Errors*: JobNotFound."""
        if (run := self._runs.running.get(id)) is not None:
            await trio.lowlevel.checkpoint()
            return run.job
        job = await self._lookup.get(id) if _ID.fullmatch(id) else None
        if job is None:
            raise JobNotFound(f"there is no job {id[:64]!r}, or no more")
        return job

    async def later(self, job: Job) -> Job:
        """The newest revision, once there is a later one than ``job``, which is not over: at once for a job that runs
        here, within 0.5 s otherwise. *Errors*: JobNotFound."""
        pause = _LEAST_POLL_SECONDS
        while True:
            if (run := self._runs.running.get(job.id)) is not None:
                await run.news(job.revision)
                found = run.job
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, _MOST_POLL_SECONDS)
                found = await self.find(job.id)
            if found.revision > job.revision:
                return found

    async def wait(self, id: str, seconds: float) -> Job:
        """The job once it is over, or after that time. *Errors*: JobNotFound."""
        job = await self.find(id)
        with trio.move_on_after(seconds):
            while not job.is_over:
                job = await self.later(job)
        return job

    async def cancel(self, id: str) -> Job:
        """Ends a job that is not over, and waits until it is, for the grace period and a little more: one of another
        instance may take longer. *Errors*: JobNotFound."""
        if (run := self._runs.running.get(id)) is not None:
            run.cancel()
        elif not (job := await self.find(id)).is_over:
            await self._store.request_cancel(job.id)
        return await self.wait(id, self._grace + _CANCEL_SECONDS)

    @property
    def count(self) -> int:
        """Of those that this process runs, or is writing down the end of."""
        return len(self._runs.running)

    def statistics(self) -> JobStatistics:
        states = [run.job.state for run in self._runs.running.values()]
        return JobStatistics(states.count("queued"), states.count("running"), dict(self._runs.ended))

    async def result(self, job: Job) -> bytes | Blob:
        """What a job returned that has succeeded: JSON, or an open file of it, which whoever gets it closes.

        *Errors*: JobNotFound, JobLost where the file cannot be read.
        """
        if job.result is not None:
            await trio.lowlevel.checkpoint()
            return job.result
        kept = await self._store.kept(job.id)
        if kept.data is not None:
            return kept.data
        if kept.file is None:
            raise JobNotFound(f"there is no job {job.id!r}, or no more")
        return await self._results.open(kept.file)


@asynccontextmanager
async def open_jobs[C](
    database: Database,
    engine: Engine[C],
    instances: Instances,
    gate: DrainGate,
    settings: JobSettings,
    threads: ThreadPool,
    *,
    revive: Callable[[str, bytes], C],
    grace: float,
) -> AsyncGenerator[Jobs[C]]:
    """Jobs, which run for as long as the block lasts; at its end, while there is a drain, until they have ended or are
    cut. Then their state is written, in the grace period, `_CLOSE_SECONDS` and a last try at most.

    revive: makes a call anew of a task's name and the ``retry_call`` that it was begun with. grace: the engine's, in
    seconds.

    *Errors*: StartError where the folder cannot be used.
    """
    store = Store(database, settings.ttl)
    results = await open_results(settings.directory, threads, store)
    try:
        async with open_lookup(store.find_many) as lookup, trio.open_nursery() as nursery:
            runs = Runs(engine, store, results, gate, instances.id, nursery)
            upkeep = Upkeep(store, results, runs, gate, instances.id, revive)
            instances.when_dead(upkeep.bury)
            async with trio.open_nursery() as helpers:
                for helper in (results.sweep, upkeep.attend, upkeep.run):
                    helpers.start_soon(helper)
                yield Jobs(runs, store, results, lookup, instances.id, grace)
                if gate.draining:
                    await _drained(runs, gate)
                helpers.cancel_scope.cancel()
            runs.cut()
            with trio.move_on_after(grace + _CLOSE_SECONDS):
                await runs.wait_idle()
            nursery.cancel_scope.cancel()
    finally:
        results.close()


async def _drained[C](runs: Runs[C], gate: DrainGate) -> None:
    """Returns once no job runs any more, or there is no more time for them."""

    async def give_up() -> None:
        await gate.wait_cut()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await runs.wait_idle()
        nursery.cancel_scope.cancel()
