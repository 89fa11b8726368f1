"""The contract of an engine: where tasks are computed. `app.compute.local` keeps it with worker processes; one on a
cluster could be the second. One suite of tests holds each to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from app.compute.payload import Payload
from app.flow.histograms import Histogram


@dataclass(frozen=True)
class OpenReport:
    """A stored report, open in this process for as long as the call lasts."""

    user_id: str
    media_type: str
    size: int
    descriptor: int


class Call(msgspec.Struct, frozen=True):
    """One task, to be run once.

    task: its name; None where ``payload`` is a whole request, which is too large to be looked into before it is in a
        worker: ``{"task": NAME, "args": {…}}``, or anything else for `app.compute.registry.DEFAULT_TASK`.
    payload: JSON: the arguments as an object; or that request.
    reports: those that arguments name, by the argument's name.
    client: among whom waiting is fair, such as an address.
    queue_seconds, run_seconds: how long it may wait, and then run, at most.
    """

    task: str | None
    payload: Payload
    reports: Mapping[str, OpenReport] = {}
    client: str = ""
    queue_seconds: float = math.inf
    run_seconds: float = math.inf

    @property
    def is_limited(self) -> bool:
        return min(self.queue_seconds, self.run_seconds) < math.inf


class Progress(msgspec.Struct, frozen=True):
    """What a task last said of itself. done, total: in units of its own; total is None where it is not known."""

    done: float = 0
    total: float | None = None
    message: str = ""


type State = Literal["queued", "running", "ended"]


class Submitted(Protocol):
    """One call that was accepted."""

    @property
    def state(self) -> State: ...

    @property
    def progress(self) -> Progress: ...

    async def changed(self) -> None:
        """Returns once ``state`` or ``progress`` have changed since this was last called; at once when it has ended."""
        ...

    async def result(self) -> bytes:
        """What the task returned, as JSON.

        *Cancellation*: harmless; what ends the call is `cancel`, or leaving the block of `Engine.submit`.
        *Errors*: UnknownTask, InvalidArguments, TaskFailed and its kind, WorkerCrashed, DeadlineExceeded (in the queue,
        or while it ran), TaskCancelled after `cancel`, ShuttingDown where the engine was closed.
        """
        ...

    def cancel(self) -> None:
        """It never starts; or, where it has, it is told, and killed after the grace period. Harmless once it ended."""
        ...


@dataclass(frozen=True)
class EngineStatistics:
    """workers: that there may be. ready: that take tasks now. running, waiting: tasks now. most_waiting: at most.
    started, killed, crashed: workers since the start. seconds_waited, seconds_run: of tasks that ended, moving means,
    by which `retry_after` is told. tasks: that ended, by outcome. killed_by: workers that were killed, by reason.
    waits, runs: seconds since the start, the latter by task."""

    workers: int
    ready: int
    running: int
    waiting: int
    most_waiting: int
    started: int
    killed: int
    crashed: int
    seconds_waited: float
    seconds_run: float
    tasks: dict[str, int] = field(default_factory=dict[str, int])
    killed_by: dict[str, int] = field(default_factory=dict[str, int])
    waits: Histogram = field(default_factory=Histogram)
    runs: dict[str, Histogram] = field(default_factory=dict[str, Histogram])


class Engine(Protocol):
    def submit(self, call: Call) -> AbstractAsyncContextManager[Submitted]:
        """``call``, accepted: it waits for a worker, or runs, until it ends or the block is left.

        Bound: a number of calls that wait; fair between clients, in order for each of them.
        *Cancellation*: leaving the block cancels the call, and waits until it is gone: the grace period at most.
        *Errors*: Overloaded, at once, with the time after which there may be a place.
        """
        ...

    async def wait_ready(self) -> None:
        """Returns while there is a worker that takes tasks, busy or not; otherwise once there is."""
        ...

    def statistics(self) -> EngineStatistics: ...
