"""What a worker's last word on a call, or its silence, means to the caller."""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from app.compute.messages import Failed
from app.errors import (
    BadJson,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidArguments,
    ResultUnusable,
    ShuttingDown,
    SluiceError,
    TaskCancelled,
    TaskFailed,
    TaskOutOfMemory,
    TaskOutOfTime,
    UnknownTask,
    WorkerCrashed,
)
from app.flow.processes import ProcessDied
from app.flow.request import Reason

_ERRORS: dict[str, type[SluiceError]] = {
    error.name: error
    for error in (
        BadJson,
        BodyTooLarge,
        InvalidArguments,
        ResultUnusable,
        TaskCancelled,
        TaskFailed,
        TaskOutOfMemory,
        TaskOutOfTime,
        UnknownTask,
    )
}
type KilledBy = Literal["cancelled", "disconnected", "deadline", "shutdown", "cpu", "crashed"]
KILLED_BY: tuple[KilledBy, ...] = ("cancelled", "disconnected", "deadline", "shutdown", "cpu", "crashed")

# By which the kernel ends a process that has had all of its processor time (setitimer(2), ITIMER_PROF).
_OUT_OF_TIME = "SIGPROF"


def error_of(message: Failed) -> SluiceError:
    """The error that a worker told; one that it should not is the task's."""
    kind = _ERRORS.get(message.name, TaskFailed)
    members = cast("dict[str, object]", msgspec.json.decode(message.members))
    return kind(message.detail, members=members, internal=message.trace or None)


def crashed(died: ProcessDied | None) -> SluiceError:
    """The error of a call in whose middle its process ended."""
    if died is None:
        return WorkerCrashed("the worker process of the task ended")
    if died.signal == _OUT_OF_TIME:
        return TaskOutOfTime("the task needed more of a processor than one may have, and was killed")
    if died.signal is not None:
        detail = f"the worker process of the task was ended by {died.signal}"
        return WorkerCrashed(detail, members={"signal": died.signal})
    detail = f"the worker process of the task ended with exit code {died.exit_code}"
    return WorkerCrashed(detail, members={"exit_code": died.exit_code})


def killed_by(error: SluiceError | None, request: Reason | None = None) -> KilledBy:
    """Why a process was killed, in a word, whose call ended by ``error``. request: why that of its request ended."""
    if request is not None:
        return request
    match error:
        case DeadlineExceeded():
            return "deadline"
        case ShuttingDown():
            return "shutdown"
        case TaskOutOfTime():
            return "cpu"
        case WorkerCrashed():
            return "crashed"
        case _:
            return "cancelled"
