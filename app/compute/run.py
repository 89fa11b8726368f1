"""One call within the local engine, from its acceptance to its end."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import trio

from app.compute.engine import Call, Progress, State
from app.compute.memory_files import memory_file
from app.compute.messages import MOST_PACKET_BYTES, GivenReport, Start, encode_start
from app.compute.payload import InFile, Inline
from app.compute.run_spans import RunSpans
from app.errors import SluiceError, TaskCancelled
from app.flow.request import Reason, current_request
from app.flow.spans import current

# With what is around it, and the reports that a task may have, it fits into a packet.
_MOST_INLINE_BYTES = 1024


_NONE_YET = Progress()


class Run:
    """`app.compute.engine.Submitted`, and what the engine knows of it.

    number: of this call and no other. spans: where somebody records them. stopped_by: why it was told to end, once it
    was; left_by: why its request was, where that was why. begun: whether it has, for whom that matters.
    """

    def __init__(
        self, number: int, call: Call, stop: Callable[[Run, SluiceError], None], spans: RunSpans | None = None
    ) -> None:
        self.number = number
        self.spans = spans
        self.call = call
        self.state: State = "queued"
        self.progress = _NONE_YET
        self.over = trio.Event()
        self.begun = trio.Event() if call.is_limited else None
        self.stopped_by: SluiceError | None = None
        self.left_by: Reason | None = None
        self.came = trio.current_time()
        self.began = self.came
        self._outcome: bytes | SluiceError | None = None
        self._stop = stop
        self._change: trio.Event | None = None  # while somebody waits for it
        self._has_changed = False
        self._file: int | None = None

    # -- what the caller sees --------------------------------------------------------------------------------------

    async def changed(self) -> None:
        if not self._has_changed and self._outcome is None:
            if self._change is None:
                self._change = trio.Event()
            await self._change.wait()
        else:
            await trio.lowlevel.checkpoint()
        self._has_changed = False

    async def result(self) -> bytes:
        await self.over.wait()
        if isinstance(self._outcome, SluiceError):
            raise self._outcome
        return self._outcome or b""

    def cancel(self) -> None:
        if self._outcome is None:
            self._stop(self, TaskCancelled("the task was cancelled"))

    # -- what the engine does --------------------------------------------------------------------------------------

    def packet(self) -> bytes:
        """What a worker is told."""
        payload = self.call.payload
        reports = {
            name: GivenReport(report.user_id, report.media_type, report.size, report.descriptor)
            for name, report in self.call.reports.items()
        }
        match payload:
            case Inline(data) if len(data) <= _MOST_INLINE_BYTES:
                start = Start(self.number, self.call.task, data, reports=reports)
            case Inline(data):
                if self._file is None:
                    self._file = memory_file("sluice-task", data)
                start = Start(self.number, self.call.task, b"", self._file, len(data), reports)
            case InFile(descriptor, size):
                start = Start(self.number, self.call.task, b"", descriptor, size, reports)
        packet = encode_start(start if self.spans is None else msgspec.structs.replace(start, traced=True))
        if len(packet) > MOST_PACKET_BYTES:
            raise ValueError("a call names more stored reports than a packet has room for")
        return packet

    def begin(self) -> None:
        self.state = "running"
        self.began = trio.current_time()
        if self.spans is not None:
            self.spans.begin()
        if self.begun is not None:
            self.begun.set()
        self._tell()

    def put_back(self) -> None:
        self.state = "queued"
        if self.begun is not None and self.begun.is_set():
            self.begun = trio.Event()
        self._tell()

    def report(self, progress: Progress) -> None:
        self.progress = progress
        self._tell()

    def end(self, outcome: bytes | SluiceError) -> None:
        """Whatever it was stopped by is what it ended by. Harmless once it has ended."""
        if self._outcome is None:
            self.state = "ended"
            self._outcome = self.stopped_by or outcome
            if self._file is not None:
                os.close(self._file)
            if self.begun is not None:
                self.begun.set()
            self.over.set()
            self._tell()

    def end_spans(self, left_by: BaseException | None) -> None:
        """left_by: what whoever waited for it was ended by."""
        if self.spans is not None:
            self.spans.end(self._outcome if isinstance(self._outcome, SluiceError) else None, left_by)

    @property
    def ending(self) -> str:
        """What it came to: ``succeeded``, or the name of the error."""
        return self._outcome.name if isinstance(self._outcome, SluiceError) else "succeeded"

    @property
    def is_over(self) -> bool:
        return self._outcome is not None

    def _tell(self) -> None:
        self._has_changed = True
        if self._change is not None:
            self._change.set()
            self._change = None


class Submission:
    """The block of `app.compute.engine.Engine.submit`."""

    def __init__(self, accept: Callable[[Call, RunSpans | None], Run], call: Call) -> None:
        self._accept = accept
        self._call = call

    async def __aenter__(self) -> Run:
        parent = current()
        spans = None if parent is None else RunSpans(parent, self._call.task)
        try:
            self._run = self._accept(self._call, spans)
        except SluiceError as error:
            if spans is not None:
                spans.end(error, None)
            raise
        return self._run

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        run = self._run
        if not run.is_over:
            request = current_request.get(None)
            run.left_by = None if request is None else request.ends_by
            run.cancel()
            with trio.CancelScope(shield=True):
                await run.over.wait()
        run.end_spans(error)
