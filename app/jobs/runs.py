"""The jobs that run in this process: each is a task of the room, from its admission until its end is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import structlog
import trio
from msgspec.structs import replace

from app.errors import (
    DatabaseUnavailable,
    InsufficientStorage,
    Overloaded,
    ResultUnusable,
    ShuttingDown,
    SluiceError,
    TaskCancelled,
)
from app.flow.drain import DrainGate
from app.flow.request import RequestScope, current_request
from app.flow.spans import NOTHING as NO_SPAN
from app.flow.spans import Attributes, Nothing, Span, begin_trace, span
from app.jobs.engine import Engine, Submitted
from app.jobs.job import Ending, Job, Progress, cut, ended, ending_of, moved, told
from app.jobs.results import Results
from app.jobs.store import NOTHING, Kept, Store
from app.storage.backoff import Backoff

_log = structlog.get_logger()

# Between two writes of how far a job is.
_PROGRESS_SECONDS = 0.25
_INSERT_SECONDS = 5.0
# For how long it is tried to write a job's end, and once more when there is no time left.
_SETTLE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 5.0


class Run:
    """A job that runs here. job: as it was last written.

    tried: the highest revision that it was tried to write. taken: another instance has taken it for lost.
    cancelled: whether somebody wants it to end, other than the shutdown. stopped: it has ended, or it was left.
    """

    def __init__(self, job: Job, request: RequestScope) -> None:
        self.job = job
        self.request = request
        self.tried = job.revision
        self.taken = False
        self.submitted: Submitted | None = None
        self.stopped = trio.Event()
        self.cancelled = False
        self._left = False
        self._changed = trio.Event()

    @property
    def progress(self) -> Progress:
        submitted = self.submitted
        if submitted is None:
            return self.job.progress
        return told(submitted.progress.done, submitted.progress.total, submitted.progress.message)

    @property
    def is_settled(self) -> bool:
        """Whether its end is written, or no more ours to write."""
        return self.job.is_over or self.taken

    def cancel(self) -> None:
        """Harmless once it ended."""
        self.cancelled = True
        if self.submitted is not None:
            self.submitted.cancel()
        else:
            self.request.scope.cancel("delete")

    async def news(self, revision: int) -> None:
        """Returns once ``job`` is of a later revision, or does not run here any more."""
        while self.job.revision <= revision and not self._left:
            await self._changed.wait()

    def publish(self, job: Job) -> None:
        self.job = job
        self._wake()

    def leave(self) -> None:
        self._left = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Runs[C]:
    """Begins jobs, follows them, and writes what becomes of them.

    What is published was written before: whoever sees a revision finds it, or a later one, in the database too.

    Bound: what the engine admits, and the jobs taken over from instances that died, each of which waits until it is
    admitted.
    """

    def __init__(
        self, engine: Engine[C], store: Store, results: Results, gate: DrainGate, owner: str, nursery: trio.Nursery
    ) -> None:
        self.running: dict[str, Run] = {}
        self.ended: Counter[str] = Counter()
        self._engine = engine
        self._store = store
        self._results = results
        self._gate = gate
        self._owner = owner
        self._nursery = nursery
        self._came = trio.Event()
        self._idle = trio.Event()

    # -- from outside --------------------------------------------------------------------------------------------------

    async def begin(self, job: Job, call: C, retry_call: bytes | None, resources: ExitStack) -> None:
        """Runs ``call`` until it ends, whoever has left meanwhile; returns once it is admitted and its row is written.

        resources: are closed when the job has ended, or was not begun.

        *Cancellation*: the job is not begun, and has no row. *Errors*: Overloaded, ShuttingDown, DatabaseUnavailable;
        likewise.
        """
        try:
            await self._nursery.start(self._run_new, job, call, retry_call, resources)
        except BaseException:
            resources.close()
            raise

    def resume(self, job: Job, call: C) -> None:
        """Runs a job again that was another instance's, and is ours by now."""
        self._nursery.start_soon(self._run_again, job, call)

    def cut(self) -> None:
        """Cancels all, for the reason ``shutdown``."""
        for run in self.running.values():
            run.request.cancel("shutdown")

    async def wait_any(self) -> None:
        """Returns when there is a job that runs."""
        while not self.running:
            if self._came.is_set():
                self._came = trio.Event()
            await self._came.wait()

    async def wait_idle(self) -> None:
        """Returns when there is none."""
        while self.running:
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()

    # -- a job's life --------------------------------------------------------------------------------------------------

    async def _run_new(
        self, job: Job, call: C, retry_call: bytes | None, resources: ExitStack, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Admission, then the row: what is refused leaves nothing behind. Where the row fails, the place is left."""
        failure: Exception | None = ShuttingDown("the server is shutting down", retry_after=1)
        ending: Ending | None = None
        with resources, self._entered(job) as run:
            try:
                with run.request.scope:
                    async with self._engine.submit(call) as run.submitted:
                        failure = await self._insert(job, retry_call)
                        if failure is None:
                            task_status.started()
                            ending = await self._follow(run, run.submitted)
            except Exception as error:
                if failure is not None:
                    raise
                ending = _unexpected(error)
            finally:
                if failure is None:
                    await self._settle(run, ending or _stopped(run))
            if failure is not None:
                raise failure

    async def _run_again(self, job: Job, call: C) -> None:
        ending: Ending | None = None
        with self._entered(job) as run:
            try:
                with run.request.scope:
                    ending = await self._follow_admitted(run, call)
            except Exception as error:  # noqa: BLE001 - it ends this job and no other
                ending = _unexpected(error)
            finally:
                await self._settle(run, ending or _stopped(run))

    @contextmanager
    def _entered(self, job: Job) -> Generator[Run]:
        """The job is one of those that run; in a task of its own. What it logs bears the id of the request it is of."""
        request, told = _own_request(job)
        current_request.set(request)
        run = self.running[job.id] = Run(job, request)
        self._came.set()
        self._gate.enter(request)
        try:
            with told:
                yield run
        finally:
            self._gate.leave(request)
            request.close()
            del self.running[job.id]
            run.leave()
            if not self.running:
                self._idle.set()

    async def _insert(self, job: Job, retry_call: bytes | None) -> Exception | None:
        """What keeps the job from being begun. *Cancellation*: as that; its row is removed."""
        there = False
        try:
            # Not to be cut off: a statement whose caller has left may be done after the one that takes it back.
            with trio.move_on_after(_INSERT_SECONDS, shield=True) as inserting:
                await self._store.insert(job, retry_call)
            if inserting.cancelled_caught:
                return DatabaseUnavailable("the job could not be written down in time", retry_after=1)
            await trio.lowlevel.checkpoint_if_cancelled()  # the last moment at which it can be called off
            there = True
        except Exception as error:  # noqa: BLE001 - raised where no nursery of the engine's is left through
            return error
        finally:
            if not there:
                await self._withdraw(job)
        return None

    async def _withdraw(self, job: Job) -> None:
        with trio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
            try:
                await self._store.withdraw(job)
            except SluiceError as error:  # the next upkeep finds a job of ours that does not run
                _log.warning("job not withdrawn", job=job.id, reason=error.internal or error.detail)

    async def _follow_admitted(self, run: Run, call: C) -> Ending:
        """Waits for a place as long as it takes: nobody is there who could be told to come back."""
        while True:
            try:
                async with self._engine.submit(call) as run.submitted:
                    return await self._follow(run, run.submitted)
            except Overloaded as error:
                await trio.sleep(error.retry_after or 1.0)

    async def _follow(self, run: Run, submitted: Submitted) -> Ending:
        """Writes how far it is, until it has ended; which waits for nothing but a write that was begun."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, run, submitted)
            ending = await _ending(submitted)
            run.stopped.set()
        return ending

    async def _report(self, run: Run, submitted: Submitted) -> None:
        """Writes each change of state at once; progress now and then, the latest one."""
        backoff = Backoff(_PROGRESS_SECONDS)
        due = trio.current_time()
        while not (run.stopped.is_set() or submitted.state == "ended"):
            job = moved(run.job, submitted.state, run.progress, time.time())
            if job is run.job:
                await submitted.changed()
            elif job.state == run.job.state and trio.current_time() < due:
                with trio.move_on_at(due):
                    await run.stopped.wait()
            else:
                due = trio.current_time() + await self._write_now(run, job, backoff)

    async def _write_now(self, run: Run, job: Job, backoff: Backoff) -> float:
        """Seconds after which the next write makes sense."""
        try:
            await self._write(run, job)
            backoff.succeeded()
            return _PROGRESS_SECONDS
        except SluiceError as error:
            _log.info("progress not written", job=job.id, reason=error.internal or error.detail)
            backoff.failed(trio.current_time())
            return backoff.wait(trio.current_time())

    async def _write(self, run: Run, job: Job, kept: Kept = NOTHING) -> bool:
        """Whether the row is now as ``job`` has it. Where it is not, somebody decided otherwise: no more is computed.

        A write whose answer was lost may have been done: the next one is of a higher revision all the same.
        """
        run.tried += 1
        job = replace(job, revision=run.tried)
        if await self._store.write(job, kept):
            run.publish(job)
            return True
        found = (await self._store.find_many([job.id])).get(job.id)
        run.request.scope.cancel()
        if found is not None and found.is_over and found.owner == self._owner:
            run.publish(found)  # perhaps by ourselves, a moment ago
            return kept.file is not None and kept == await self._store.kept(job.id)
        _log.warning("job was taken over by another instance", job=job.id)
        run.taken = True
        return False

    # -- its end -------------------------------------------------------------------------------------------------------

    async def _settle(self, run: Run, ending: Ending) -> None:
        """Writes the end. What is not written in time, the upkeep finds, and calls it lost.

        *Cancellation*: one more try, shielded, for `_LAST_WORDS_SECONDS`."""
        try:
            with trio.move_on_after(_SETTLE_SECONDS):
                await self._end(run, ending)
        finally:
            if not run.is_settled:
                with trio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
                    await self._end(run, ending)
            if run.job.is_over:
                self.ended[run.job.state] += 1
            _tell_end(run, ending)

    async def _end(self, run: Run, ending: Ending) -> None:
        try:
            await self._keep(run, ending)
        except Exception as error:  # noqa: BLE001 - a result that nothing takes is no reason to end the room
            _log.warning("result not kept", job=run.job.id, reason=getattr(error, "internal", None) or str(error))
            refused = ResultUnusable("the job's result cannot be kept")
            try:
                await self._persist(run, ending_of(_known(error) or refused), NOTHING)
            except Exception:  # noqa: BLE001 - likewise
                _log.exception("end of a job refused", job=run.job.id)

    async def _keep(self, run: Run, ending: Ending) -> None:
        if run.is_settled:
            return
        if ending.result is None:
            await self._persist(run, ending, NOTHING)
            return
        async with self._results.keeping(ending.result) as (kept, drop):
            if not await self._persist(run, ending, kept):
                drop()

    async def _persist(self, run: Run, ending: Ending, kept: Kept) -> bool:
        """Tries until the database is there. *Errors*: QueryFailed."""
        backoff = Backoff()
        while True:
            now = time.time()
            try:
                return await self._write(run, ended(moved(run.job, "ended", run.progress, now), ending, now), kept)
            except (DatabaseUnavailable, InsufficientStorage) as error:
                if not backoff.failures:
                    _log.warning("end of a job not written yet", job=run.job.id, reason=error.internal or error.detail)
                backoff.failed(trio.current_time())
                await trio.sleep(backoff.wait(trio.current_time()))


def _own_request(job: Job) -> tuple[RequestScope, Span | Nothing]:
    """What a job is to log and traces: a part of the request that begins it; of none, where it is run again."""
    said: Attributes = {"sluice.job": job.id, "sluice.task": job.task}
    begun_by = current_request.get(None)
    if begun_by is not None:
        return RequestScope(begun_by.id, begun_by.trace_id), span("job", said)
    trace, first = begin_trace(None)
    if first is not None:
        first.name, first.kind, first.attributes = "job", "internal", said
    return RequestScope(job.id, None if trace is None else trace.trace_id), first or NO_SPAN


async def _ending(submitted: Submitted) -> Ending:
    try:
        return Ending("succeeded", result=await submitted.result())
    except SluiceError as error:
        return ending_of(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends this job and no other
        return _unexpected(error)


def _stopped(run: Run) -> Ending:
    """Of one that did not end by itself."""
    return ending_of(TaskCancelled("the job was cancelled")) if run.cancelled else cut()


def _tell_end(run: Run, ending: Ending) -> None:
    job = run.job
    if job.is_over:
        seconds = (job.finished or 0.0) - job.created
        _log.info("job", job=job.id, task=job.task, state=job.state, seconds=round(seconds, 3))
    elif not run.taken:
        _log.error("end of a job not written", job=job.id, task=job.task, state=ending.state)


def _known(error: Exception) -> SluiceError | None:
    return error if isinstance(error, InsufficientStorage | ResultUnusable) else None


def _unexpected(error: Exception) -> Ending:
    _log.error("unexpected error of a job", exc_info=error)
    return ending_of(SluiceError("The server met an error that it did not expect; its log has the details."))
