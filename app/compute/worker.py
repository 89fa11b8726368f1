"""A worker process: it takes one call after the other from a pipe, and says how each ended."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType

import msgspec

from app.compute.cells import Cell
from app.compute.messages import (
    MOST_PACKET_BYTES,
    MOST_RESULT_BYTES,
    Failed,
    Message,
    Ready,
    Reported,
    Returned,
    Start,
    Tired,
    Traced,
    decode_start,
    frame,
)
from app.compute.registry import load_tasks, parse_request, task_named
from app.compute.tasks import Cancelled, StoredReport, Task, set_hooks
from app.compute.traced import CallSpans
from app.errors import (
    ResultUnusable,
    SluiceError,
    TaskCancelled,
    TaskFailed,
    TaskOutOfMemory,
    TaskOutOfTime,
)
from app.flow.spans import recording

# Progress is told this often at most.
_REPORT_SECONDS = 0.05
_MOST_TEXT = 1000
_MOST_TRACE = 8000
# Its size is looked at after a call that ran for so long, and after so many others.
_LONG_SECONDS = 0.005
_LOOK_CALLS = 50


@dataclass(frozen=True)
class Orders:
    """What a worker is started with.

    server: its process. calls, answers, cell: the server's descriptors of the pipe that calls are read from, the one
    that answers go to, and the cell of the call that is to end. modules: of tasks. memory, processor: bytes and seconds
    for one task. calls_at_most: then it is to be replaced.
    """

    server: int
    calls: int
    answers: int
    cell: int
    modules: Sequence[str]
    memory: int
    processor: float
    calls_at_most: int

    def path(self, descriptor: int) -> str:
        """Where a file is that the server has open."""
        return f"/proc/{self.server}/fd/{descriptor}"


def work(orders: Orders) -> None:
    """Serves until the server has closed the pipe of calls."""
    # Where it was not preloaded: some libraries take it badly to be loaded when there is little memory left.
    import_module("app.compute.preload")
    _Worker(orders).serve()


class _OutOfTime(BaseException):
    """The task has had all the processor time that it may have."""


class _Worker:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._tasks: Mapping[str, Task] = load_tasks(orders.modules)
        self._calls = os.open(orders.path(orders.calls), os.O_RDONLY | os.O_CLOEXEC)
        self._answers = os.open(orders.path(orders.answers), os.O_WRONLY | os.O_CLOEXEC)
        descriptor = os.open(orders.path(orders.cell), os.O_RDWR | os.O_CLOEXEC)
        self._cell = Cell(descriptor)
        os.close(descriptor)
        self._number = 0
        self._reported = 0.0
        self._held: Reported | None = None  # the last progress, where it came too soon after the one before
        self._ruined = False
        self._process = os.getpid()
        # A task may tell of its progress from several threads. Ours may be interrupted in the middle, and comes again.
        self._sending = threading.RLock()

    def serve(self) -> None:
        _limit_memory(self._orders.memory)
        signal.signal(signal.SIGVTALRM, _out_of_time)
        set_hooks(self)
        self._send(Ready(os.getpid()))
        calls = 0
        tired = False
        while packet := os.read(self._calls, MOST_PACKET_BYTES):
            start = decode_start(packet)
            spans = CallSpans() if start.traced else None
            answer = self._answer(start) if spans is None else self._answer_traced(start, spans)
            if os.getpid() != self._process:
                os._exit(1)  # what a task has forked is no worker, and answers nobody
            if self._held is not None:
                self._send(self._held)
            if spans is not None:
                self._send(Traced(start.number, list(spans.told())))
            self._send(answer)
            if self._ruined:
                return
            calls += 1
            if not tired and self._is_tired(calls, answer.seconds):
                tired = True
                self._send(Tired())

    def _is_tired(self, calls: int, seconds: float) -> bool:
        if calls >= self._orders.calls_at_most:
            return True
        looks = seconds >= _LONG_SECONDS or calls % _LOOK_CALLS == 0
        return looks and _resident() > self._orders.memory // 2

    # -- what a task calls -----------------------------------------------------------------------------------------

    def check(self) -> None:
        if self._cell.value == self._number:
            raise Cancelled

    def report(self, done: float, total: float | None, message: str) -> None:
        text = _sendable(str(message)[:_MOST_TEXT])
        self._held = Reported(self._number, float(done), None if total is None else float(total), text)
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._send(self._held)
            self._held = None

    # -- one call --------------------------------------------------------------------------------------------------

    def _answer_traced(self, start: Start, spans: CallSpans) -> Returned | Failed:
        run = spans.begin("task run")
        with recording(spans), run:
            answer = self._answer(start)
            if isinstance(answer, Failed):
                run.failed(answer.name)
        return answer

    def _answer(self, start: Start) -> Returned | Failed:
        self._number = start.number
        self._reported = 0.0
        self._held = None
        began = time.monotonic()
        try:
            _limit_processor(self._orders.processor)
            try:
                result = self._run(start)
            finally:
                _limit_processor(0)
        except Cancelled:
            return self._failed(TaskCancelled("the task was cancelled"), began)
        except SluiceError as error:
            return self._failed(error, began)
        except MemoryError:
            self._ruined = True
            detail = f"the task needed more than the {self._orders.memory} bytes of memory that one may have"
            return self._failed(TaskOutOfMemory(detail), began)
        except _OutOfTime:
            detail = f"the task needed more than the {self._orders.processor:g} s of a processor that one may have"
            return self._failed(TaskOutOfTime(detail), began)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the task's
            return self._failed(_raised(error), began, _sendable("".join(traceback.format_exception(error))))
        return Returned(start.number, time.monotonic() - began, result)

    def _run(self, start: Start) -> bytes:
        if start.descriptor is None:
            return self._result(start, start.data)
        descriptor = os.open(self._orders.path(start.descriptor), os.O_RDWR | os.O_CLOEXEC)
        try:
            mapped = mmap.mmap(descriptor, start.size, prot=mmap.PROT_READ)
            data = memoryview(mapped)
            result = self._result(start, data)
            _empty(descriptor, mapped, data)
        finally:
            os.close(descriptor)
        return result

    def _result(self, start: Start, data: bytes | memoryview) -> bytes:
        name, arguments = parse_request(data) if start.task is None else (start.task, data)
        task = task_named(self._tasks, name)
        reports = {
            field: StoredReport(
                user_id=given.user_id,
                media_type=given.media_type,
                size=given.size,
                path=self._orders.path(given.descriptor),
            )
            for field, given in start.reports.items()
        }
        return _encoded(task.function(**task.decode(arguments, reports)))

    def _failed(self, error: SluiceError, began: float, trace: str = "") -> Failed:
        seconds = time.monotonic() - began
        members = msgspec.json.encode(error.members)
        return Failed(self._number, seconds, error.name, error.detail, members, trace[-_MOST_TRACE:])

    def _send(self, message: Message) -> None:
        left = memoryview(frame(message))
        with self._sending:
            while left:
                left = left[os.write(self._answers, left) :]


def _empty(descriptor: int, mapped: mmap.mmap, data: memoryview) -> None:
    """Gives the memory of a file back: large ones take milliseconds, in which the server could answer nobody."""
    try:
        data.release()
        mapped.close()
    except BufferError:  # the task has kept a part of it
        return
    os.ftruncate(descriptor, 0)


def _encoded(result: object) -> bytes:
    """*Errors*: ResultUnusable."""
    try:
        encoded = msgspec.json.encode(result)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ResultUnusable(f"what the task returned cannot be JSON: {_text(error)}") from error
    if len(encoded) > MOST_RESULT_BYTES:
        raise ResultUnusable(f"what the task returned has {len(encoded)} bytes, more than {MOST_RESULT_BYTES}")
    return encoded


def _raised(error: BaseException) -> TaskFailed:
    kind = type(error).__name__
    return TaskFailed(f"{kind}: {_text(error)}", members={"exception": kind, "message": _text(error)})


def _text(error: BaseException) -> str:
    try:
        return _sendable(str(error)[:_MOST_TEXT])
    except Exception:  # noqa: BLE001 - of the task's own class
        return "(its message cannot be told)"


def _sendable(text: str) -> str:
    """What has lone surrogates has no UTF-8."""
    return text.encode("utf-8", "replace").decode()


# -- limits ----------------------------------------------------------------------------------------------------------


def _limit_memory(task: int) -> None:
    """What there is by now is not the tasks'."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + task
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _limit_processor(seconds: float) -> None:
    """From now on; 0: none. The first limit raises in the task; what does not come back to Python for that runs into
    the second, by which the kernel ends the process."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds and seconds * 1.1 + 1)


def _out_of_time(_: int, __: FrameType | None) -> None:
    raise _OutOfTime


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
