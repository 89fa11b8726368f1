"""The use cases of computing: a request for a task becomes a call, with all that the call needs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Protocol

import msgspec
import trio

from app.compute.bodies import Bodies
from app.compute.engine import Call, Engine, OpenReport
from app.compute.payload import Inline, Payload
from app.compute.registry import parse_request, task_named
from app.compute.tasks import Task

# Arguments up to here are checked before they wait for a worker, which checks them again.
_CHECKED_BYTES = 64 * 1024


class Blob(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def descriptor(self) -> int: ...
    def close(self) -> None: ...


class Report(Protocol):
    """A stored report, open."""

    @property
    def user_id(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    @property
    def blob(self) -> Blob: ...


type OpenStored = Callable[[str], Awaitable[Report]]
"""Opens the newest report of a user."""


class Limits(msgspec.Struct, frozen=True):
    """Of one call, beside the server's: see `Call`."""

    client: str
    queue_seconds: float
    run_seconds: float


class Prepared(msgspec.Struct, frozen=True):
    """A call that can be submitted. task: None where that is in a body that only a worker looks into."""

    call: Call
    task: Task | None


class Compute:
    """The tasks that there are, and an engine for them. stored: opens reports that tasks are to read."""

    def __init__(self, engine: Engine, tasks: Mapping[str, Task], bodies: Bodies, stored: OpenStored) -> None:
        self.engine = engine
        self.tasks = tasks
        self._bodies = bodies
        self._stored = stored

    async def receive(
        self,
        chunks: AsyncIterable[bytes],
        limits: Limits,
        resources: ExitStack,
        watch: Callable[[bytes], object] | None = None,
        length: int | None = None,
    ) -> Prepared:
        """The call that a body asks for.

        resources: takes what has to be closed once the call is over. watch: is called with each part of the body.
        length: in bytes, where that is known before.
        *Errors*: BadJson, BodyTooLarge, UnknownTask, InvalidArguments, Overloaded, those of ``chunks``, and those of
        opening a report.
        """
        body = await self._bodies.receive(chunks, resources, watch, length)
        if not isinstance(body, Inline):
            return Prepared(_call(None, body, limits, {}), None)
        name, arguments = parse_request(body.data)
        if len(arguments) > _CHECKED_BYTES:
            await trio.lowlevel.checkpoint()  # it took some time, and is looked through once more
        return await self.prepare(name, bytes(arguments), limits, resources)

    async def prepare(self, name: str, arguments: bytes, limits: Limits, resources: ExitStack) -> Prepared:
        """Likewise, of the task's name and its arguments."""
        task = task_named(self.tasks, name)
        if len(arguments) <= _CHECKED_BYTES:
            task.check(arguments)
        reports: dict[str, OpenReport] = {}
        for field, user_id in task.report_ids(arguments).items() if task.report_fields else ():
            report = await self._stored(user_id)
            resources.callback(report.blob.close)
            reports[field] = OpenReport(report.user_id, report.media_type, report.blob.size, report.blob.descriptor)
        return Prepared(_call(name, Inline(arguments), limits, reports), task)

    async def compute(self, call: Call) -> bytes:
        """The result, as JSON. *Cancellation*: ends the call. *Errors*: those of `Engine` and `Submitted`."""
        async with self.engine.submit(call) as submitted:
            return await submitted.result()


def _call(task: str | None, payload: Payload, limits: Limits, reports: Mapping[str, OpenReport]) -> Call:
    return Call(task, payload, reports, limits.client, limits.queue_seconds, limits.run_seconds)
