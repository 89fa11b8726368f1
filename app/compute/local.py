"""The engine on this machine: worker processes, and a queue in front of them that is bounded and fair."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import structlog
import trio

from app.compute.endings import crashed, error_of, killed_by
from app.compute.engine import Call, EngineStatistics, Progress
from app.compute.fair_queue import FairQueue
from app.compute.means import Means
from app.compute.messages import Failed, Garbled, Message, Ready, Reported, Returned, Tired, Traced
from app.compute.pipes import WorkerPipes
from app.compute.run import Run, Submission
from app.compute.run_spans import RunSpans
from app.compute.worker import Orders
from app.compute.workers import Worker
from app.errors import DeadlineExceeded, Overloaded, ShuttingDown, SluiceError
from app.flow.histograms import Histogram
from app.flow.processes import ProcessPool, open_processes, spare_cpus
from app.settings import ComputeSettings

_log = structlog.get_logger()

# Calls of tasks that take no time are sent ahead, to be there when the one before has ended.
_MOST_AHEAD = 8
_QUICK_SECONDS = 0.001
# Between two starts of a worker that does not get ready.
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


@asynccontextmanager
async def open_local_engine(settings: ComputeSettings, modules: Sequence[str]) -> AsyncGenerator[LocalEngine]:
    """An engine of ``settings.workers`` processes, which start at once. Leaving it kills them.

    modules: of tasks, beside those that are built in or installed.
    """
    workers = settings.workers or spare_cpus()
    # Twice as many: a worker that is to be replaced works on until the next one is there.
    async with open_processes("compute", 2 * workers, one_call=True) as pool, trio.open_nursery() as nursery:
        engine = LocalEngine(settings, workers, pool, modules, nursery)
        for _ in range(workers):
            nursery.start_soon(engine.keep_worker)
        try:
            yield engine
        finally:
            engine.close()
            nursery.cancel_scope.cancel()


class LocalEngine:
    """`app.compute.engine.Engine` over worker processes.

    Bound: each worker has one call, and up to `_MOST_AHEAD` that take no time; calls beyond the workers' number wait,
    ``settings.queue`` at most. What is sent ahead can be taken back until the worker begins it.
    """

    def __init__(
        self,
        settings: ComputeSettings,
        workers: int,
        pool: ProcessPool,
        modules: Sequence[str],
        nursery: trio.Nursery,
    ) -> None:
        self._settings = settings
        self._size = workers
        self._most_waiting = settings.queue or 2 * workers
        self._pool = pool
        self._modules = modules
        self._nursery = nursery
        self._numbers = count(1)
        self._queue: FairQueue[Run] = FairQueue()
        self._workers: list[Worker] = []
        self._places: dict[Run, Worker] = {}
        self._accepted: set[Run] = set()
        self._means = Means()
        self._became_ready = trio.Event()
        self._closed = False
        self._started = self._killed = self._crashed = 0
        self._outcomes: Counter[str] = Counter()
        self._killed_by: Counter[str] = Counter()
        self._waits = Histogram()
        self._runs: dict[str, Histogram] = {}

    # -- the contract ----------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> Submission:
        return Submission(self._accept, call)

    async def wait_ready(self) -> None:
        await trio.lowlevel.checkpoint()
        while not any(worker.ready for worker in self._workers):
            await self._became_ready.wait()

    def statistics(self) -> EngineStatistics:
        running = sum(1 for worker in self._workers if worker.runs)
        return EngineStatistics(
            workers=self._size,
            ready=sum(1 for worker in self._workers if worker.ready),
            running=running,
            waiting=len(self._accepted) - running,
            most_waiting=self._most_waiting,
            started=self._started,
            killed=self._killed,
            crashed=self._crashed,
            seconds_waited=self._means.waited,
            seconds_run=self._means.ran,
            tasks=dict(self._outcomes),
            killed_by=dict(self._killed_by),
            waits=self._waits,
            runs=self._runs,
        )

    def close(self) -> None:
        """Nothing is accepted any more, and what waits is given up; what runs is, when its worker is killed."""
        self._closed = True
        for run in list(self._accepted):
            if self._withdraw(run):
                self._end(run, _closing())

    def _accept(self, call: Call, spans: RunSpans | None) -> Run:
        if self._closed:
            raise _closing()
        if len(self._accepted) >= self._size + self._most_waiting:
            wait = self._means.wait(len(self._accepted), self._size)
            raise Overloaded(f"{self._most_waiting} tasks wait already, and no more may", retry_after=wait)
        run = Run(next(self._numbers), call, self._stop, spans)
        self._accepted.add(run)
        self._queue.put(call.client, run)
        self._dispatch()
        if run.begun is not None:
            self._nursery.start_soon(self._limit, run, run.begun)
        return run

    # -- from the queue to the workers -----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while (run := self._queue.first()) is not None and (worker := self._place_for(run)) is not None:
            self._queue.take()
            self._send(worker, run)
        if not len(self._queue):
            self._share()

    def _place_for(self, run: Run) -> Worker | None:
        """An idle worker; or, for what takes no time, one that has little of that kind before it."""
        least: Worker | None = None
        for worker in self._workers:
            if worker.ready and (least is None or len(worker.runs) < len(least.runs)):
                least = worker
        if least is None or not least.runs:
            return least
        # What is behind the first was sent ahead, because it is quick.
        if len(least.runs) < _MOST_AHEAD and self._is_quick(run) and self._is_quick(least.runs[0]):
            return least
        return None

    def _is_quick(self, run: Run) -> bool:
        return self._means.of(run.call.task) < _QUICK_SECONDS

    def _send(self, worker: Worker, run: Run) -> None:
        try:
            worker.pipes.put(run.packet())
        except (OSError, ValueError) as error:  # no memory for its file, or too many reports
            self._end(run, SluiceError("the task could not be sent to a worker", internal=str(error)))
            return
        worker.runs.append(run)
        self._places[run] = worker
        if len(worker.runs) == 1:
            self._begin(run)

    def _share(self) -> None:
        """Where a worker has nothing to do, another does not keep calls waiting behind the one that it is at."""
        for worker in self._workers:
            if len(worker.runs) > 1 and any(idle.ready and not idle.runs for idle in self._workers):
                if back := self._take_back(worker):
                    self._queue.put_back(back)
                    self._dispatch()
                return

    def _take_back(self, worker: Worker) -> list[Run]:
        """The calls that ``worker`` has been sent and has not begun; they are nowhere then."""
        numbers = worker.pipes.take_back()
        back = [run for run in worker.runs if run.number in numbers]
        for run in back:
            worker.runs.remove(run)
            del self._places[run]
            run.put_back()
        return back

    def _withdraw(self, run: Run) -> bool:
        """Whether ``run`` has not begun; then it never does."""
        worker = self._places.get(run)
        if worker is None:
            return self._queue.remove(run.call.client, run)
        back = self._take_back(worker)
        for other in back:
            if other is not run:
                self._send(worker, other)
        return run in back

    # -- how calls begin and end -----------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        run.begin()
        self._means.has_waited(run.began - run.came)
        self._waits.observe(run.began - run.came)

    def _end(self, run: Run, outcome: bytes | SluiceError) -> None:
        run.end(outcome)
        self._accepted.discard(run)
        self._outcomes[run.ending] += 1

    def _stop(self, run: Run, reason: SluiceError) -> None:
        """It never begins; or it is told to end, and killed where it does not. The first reason stays."""
        if run.is_over or run.stopped_by is not None:
            return
        run.stopped_by = reason
        if self._withdraw(run):
            self._end(run, reason)
            self._dispatch()
            return
        worker = self._places[run]
        # If it was read, what was before it has ended: only one task at a time looks into the cell.
        worker.hear()
        if not run.is_over:
            worker.pipes.end(run.number)
            self._nursery.start_soon(self._kill_after_grace, worker, run)

    async def _kill_after_grace(self, worker: Worker, run: Run) -> None:
        with trio.move_on_after(self._settings.grace):
            await run.over.wait()
        if not run.is_over:
            self._kill(worker, run)

    def _kill(self, worker: Worker, run: Run) -> None:
        """Unless ``run`` has just ended: then the worker may have begun another one, which is not to die for it."""
        self._queue.put_back(self._take_back(worker))
        worker.hear()
        if not run.is_over:
            self._killed += 1
            self._killed_by[killed_by(run.stopped_by, run.left_by)] += 1
            _log.info("task killed", task=run.call.task, grace=self._settings.grace)
            worker.ready = False
            worker.scope.cancel()
        self._dispatch()

    async def _limit(self, run: Run, begun: trio.Event) -> None:
        """Holds it to its two limits."""
        call = run.call
        with trio.move_on_after(call.queue_seconds):
            await begun.wait()
        if not begun.is_set() and self._withdraw(run):
            self._end(run, DeadlineExceeded(f"the task could not begin within {call.queue_seconds:g} s"))
            self._dispatch()
            return
        with trio.move_on_after(call.run_seconds):
            await run.over.wait()
        self._stop(run, DeadlineExceeded(f"the task has not ended within {call.run_seconds:g} s of its begin"))

    # -- the workers -----------------------------------------------------------------------------------------------

    async def keep_worker(self) -> None:
        """One worker process after the other, for as long as it runs; the next one starts before the last one ends."""
        pause = _FIRST_PAUSE_SECONDS
        last: Worker | None = None
        while True:
            worker = self._make_worker(last)
            if worker is not None:
                self._nursery.start_soon(self._have_work, worker)
                await worker.replaceable.wait()
            if worker is not None and worker.was_ready:
                pause = _FIRST_PAUSE_SECONDS
                last = worker
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _make_worker(self, last: Worker | None) -> Worker | None:
        try:
            return Worker(last, self._take)
        except OSError as error:
            _log.error("worker not started", reason=str(error))
            return None

    async def _have_work(self, worker: Worker) -> None:
        self._workers.append(worker)
        self._started += 1
        try:
            await worker.live(self._pool, self._orders(worker.pipes), self._dispatch)
            if worker.died is not None:
                self._crashed += 1
                self._killed_by[killed_by(crashed(worker.died))] += 1
        finally:
            self._workers.remove(worker)
            self._bury(worker)
            worker.replaceable.set()

    def _orders(self, pipes: WorkerPipes) -> Orders:
        return Orders(
            server=os.getpid(),
            calls=pipes.calls,
            answers=pipes.answers,
            cell=pipes.cell,
            modules=tuple(self._modules),
            memory=self._settings.memory,
            processor=self._settings.processor,
            calls_at_most=self._settings.tasks_per_worker,
        )

    def _take(self, worker: Worker, message: Message) -> None:
        match message:
            case Ready(pid):
                worker.is_known(pid)
                worker.ready = worker.was_ready = True
                self._became_ready.set()
                self._became_ready = trio.Event()
                if worker.before is not None:
                    self._retire(worker.before)
                    worker.before = None
            case Tired():
                worker.replaceable.set()
            case Reported(number, done, total, text):
                if worker.runs and worker.runs[0].number == number:  # not what a task has left behind
                    worker.runs[0].report(Progress(done, total, text))
            case Traced(number, spans):
                if worker.runs and worker.runs[0].number == number and worker.runs[0].spans is not None:
                    worker.runs[0].spans.take(spans)
            case Returned() | Failed():
                if not worker.runs or worker.runs[0].number != message.number:
                    raise Garbled(f"an answer to call {message.number}, which is not at its turn")
                run = worker.runs.popleft()
                del self._places[run]
                self._means.has_run(run.call.task, message.seconds)
                self._note(run.call.task, message.seconds)
                self._end(run, message.result if isinstance(message, Returned) else error_of(message))
                if worker.runs:
                    self._begin(worker.runs[0])
                elif worker.retired:
                    worker.pipes.finish()

    def _note(self, task: str | None, seconds: float) -> None:
        """Bound: the tasks that there are; one that a worker found in a body has no name here."""
        name = task or "unnamed"
        if (times := self._runs.get(name)) is None:
            times = self._runs[name] = Histogram()
        times.observe(seconds)

    def _retire(self, worker: Worker) -> None:
        if worker in self._workers:
            worker.ready = False
            worker.retired = True
            self._queue.put_back(self._take_back(worker))
            if not worker.runs:
                worker.pipes.finish()

    def _bury(self, worker: Worker) -> None:
        """What the process had begun has failed; what it had not goes on elsewhere."""
        worker.ready = False
        worker.hear()
        back = self._take_back(worker)
        for run in worker.runs:
            del self._places[run]
            self._end(run, _closing() if self._closed else crashed(worker.died))
        worker.pipes.close()
        if self._closed:
            for run in back:
                self._end(run, _closing())
        else:
            self._queue.put_back(back)
            self._dispatch()


def _closing() -> ShuttingDown:
    return ShuttingDown("the server is shutting down")
