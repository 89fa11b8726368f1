"""What a worker's last word, or its silence, means."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.compute.endings import crashed, error_of
from app.compute.messages import Failed
from app.errors import (
    BadJson,
    InvalidArguments,
    ResultUnusable,
    SluiceError,
    TaskCancelled,
    TaskFailed,
    TaskOutOfMemory,
    TaskOutOfTime,
    UnknownTask,
    WorkerCrashed,
)
from app.flow.processes import ProcessDied

KINDS = (
    BadJson,
    InvalidArguments,
    ResultUnusable,
    TaskCancelled,
    TaskFailed,
    TaskOutOfMemory,
    TaskOutOfTime,
    UnknownTask,
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_worker_may_tell_is_told(kind: type[SluiceError]) -> None:
    members = {"offset": 3, "errors": [{"field": "n"}]}
    error = error_of(Failed(1, 0.5, kind.name, "a detail", msgspec.json.encode(members), "a trace"))
    assert type(error) is kind
    assert (error.detail, dict(error.members), error.internal) == ("a detail", members, "a trace")


@settings(deadline=None)
@given(st.text())
def test_anything_else_is_the_tasks_failure(name: str) -> None:
    error = error_of(Failed(1, 0.5, f"x{name}", "a detail"))
    assert (type(error), error.internal, dict(error.members)) == (TaskFailed, None, {})


@pytest.mark.parametrize("name", ["report-not-found", "overloaded", "shutting-down", "internal", "deadline"])
def test_a_task_cannot_speak_for_the_server(name: str) -> None:
    assert type(error_of(Failed(1, 0.5, name, "a detail"))) is TaskFailed


@pytest.mark.parametrize(
    ("exit_code", "members", "words"),
    [
        (-11, {"signal": "SIGSEGV"}, "SIGSEGV"),
        (-9, {"signal": "SIGKILL"}, "SIGKILL"),
        (-60, {"signal": "signal 60"}, "signal 60"),
        (3, {"exit_code": 3}, "exit code 3"),
        (0, {"exit_code": 0}, "exit code 0"),
    ],
)
def test_a_crash_names_its_signal_or_exit_code(exit_code: int, members: dict[str, object], words: str) -> None:
    error = crashed(ProcessDied("a secret", exit_code))
    assert type(error) is WorkerCrashed
    assert dict(error.members) == members
    assert words in error.detail
    assert "secret" not in error.detail


def test_the_kernel_ends_what_has_had_its_processor_time() -> None:
    assert type(crashed(ProcessDied("died", -27))) is TaskOutOfTime


def test_an_end_without_a_reason_is_a_crash_too() -> None:
    assert type(crashed(None)) is WorkerCrashed
