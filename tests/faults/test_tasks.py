"""Tasks that misbehave, and clients that leave, under the real commands: nobody else notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.computing import (
    PROCESS,
    Mark,
    call,
    computing,
    error_of,
    held,
    losing,
    post,
    result_of,
)
from tests.faults.process_tree import assert_gone
from tests.faults.traffic import RawClient, wait_until
from tests.processes import HYPERCORN, SERVE, SluiceProcess

_PATIENCE = 1000
_GIB = 1024**3

_COMMANDS = {"serve": (SERVE, 1), "hypercorn": (HYPERCORN, 1), "hypercorn-2": (HYPERCORN, 2)}


def _under(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", names, indirect=True, scope="module")


under_every_command = _under("serve", "hypercorn", "hypercorn-2")
# Where all clients meet at one queue.
under_one_process = _under("serve", "hypercorn")


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, embedded_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SluiceProcess]:
    """One for all tests here: whatever they do to it, it goes on."""
    command, workers = _COMMANDS[request.param]
    folder = shutil.copytree(embedded_template, tmp_path_factory.mktemp("server") / "data")
    variables = {"SLUICE_COMPUTE_QUEUE": str(_PATIENCE), "SLUICE_TASKS_PER_WORKER": "100000"}
    with computing(folder, command, variables, workers=workers) as running:
        yield running
        assert not [line for line in running.log() if line["event"] == "unexpected error" or "exception" in line]


@pytest.fixture
def mark(tmp_path: Path) -> Mark:
    return Mark(tmp_path / "mark")


def _outcome(server: SluiceProcess, request_id: str) -> str:
    """As it was logged, once it was."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in server.events("request") if line["request_id"] == request_id]

    wait_until(lines, "the request is logged")
    (line,) = lines()
    return line["outcome"]


# -- what goes wrong in a task -----------------------------------------------------------------------------------------


def _fault(name: str, request: bytes, status: int, lost: int, **members: object) -> Any:
    return pytest.param(request, name, status, lost, members, id=json.loads(request)["task"])


@_under("hypercorn-2")
@pytest.mark.parametrize(
    ("request_", "name", "status", "lost", "members"),
    [
        _fault("worker-crashed", call("segfault"), 500, 1, signal="SIGSEGV"),
        _fault("worker-crashed", call("leave", code=7), 500, 1, exit_code=7),
        _fault("worker-crashed", call("stop"), 500, 1, signal="SIGKILL"),
        _fault("task-out-of-memory", call("allocate", size=100 * _GIB), 500, 1),
        _fault("result-unusable", call("unusable"), 500, 0),
        _fault("task-failed", call("fail", how="oddly"), 500, 0, exception="_Odd", message="odd ? text"),
        _fault("task-failed", call("exit"), 500, 0, exception="SystemExit", message="3"),
        _fault("unknown-task", call("nothing"), 404, 0),
        _fault("invalid-arguments", call("leave", code="x", cod=1), 422, 0, errors=None),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_task_works(
    server: SluiceProcess, request_: bytes, name: str, status: int, lost: int, members: dict[str, object]
) -> None:
    with losing(server, lost), RawClient(server.port) as client:
        client.post(PROCESS, request_)
        head, document = client.answer()
        assert error_of((head, document)) == (status, name)
        assert set(document) == {"type", "title", "status", "detail", "request_id", "error", *members}
        for member, value in members.items():
            assert value is None or document[member] == value
        assert "Traceback" not in str(document)
        assert ".py" not in str(document)
        client.post(PROCESS, call("echo", value=1))  # to the same serving process
        assert result_of(client.answer()) == 1


@under_one_process
def test_a_crash_is_told_under_every_command(server: SluiceProcess) -> None:
    with losing(server, 1):
        assert error_of(post(server.port, call("segfault"))) == (500, "worker-crashed")
        assert result_of(post(server.port, call("echo", value=1))) == 1


@_under("serve")
def test_the_traceback_of_a_task_is_in_the_log_only(server: SluiceProcess) -> None:
    _, document = post(server.port, call("fail", how="oddly"), X_Request_Id="odd-one")
    (line,) = server.wait_for_event("task failed")
    assert (line["request_id"], document["request_id"]) == ("odd-one", "odd-one")
    assert "behaving.py" in line["reason"]


def _descriptors(server: SluiceProcess) -> int:
    """Those of the server, but for the database's, which depend on what its threads do."""
    found = 0
    for entry in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += "sluice.db" not in str(entry.readlink())
    return found


@_under("serve")
def test_no_descriptor_is_left_of_what_went_wrong(server: SluiceProcess, tmp_path: Path) -> None:
    large = ["x" * 10_000] * 200  # goes through a file

    def go_wrong(mark: Mark) -> None:
        post(server.port, call("segfault"))
        assert result_of(post(server.port, call("echo", value=large))) == large
        assert error_of(post(server.port, call("leave", code=large))) == (422, "invalid-arguments")
        with RawClient(server.port) as running, RawClient(server.port) as waiting:
            running.post(PROCESS, call("spin", begun=str(mark)))
            mark.process()
            waiting.post(PROCESS, call("echo", value=large))
        assert result_of(post(server.port, call("echo", value=1))) == 1

    go_wrong(Mark(tmp_path / "first"))
    before = _descriptors(server)
    for number in range(3):
        go_wrong(Mark(tmp_path / str(number)))
    wait_until(lambda: _descriptors(server) <= before, "all descriptors are closed")


# -- many at once ------------------------------------------------------------------------------------------------------


@under_every_command
def test_each_of_a_thousand_concurrent_callers_gets_its_own_result(server: SluiceProcess) -> None:
    with losing(server, 0), ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(_PATIENCE)]
        for number, client in enumerate(clients):
            client.post(PROCESS, call("echo", value=[number, "x" * number]))
        results = [result_of(client.answer()) for client in clients]
    assert results == [[number, "x" * number] for number in range(_PATIENCE)]


@under_one_process
def test_a_worker_that_is_killed_takes_no_task_with_it_but_the_one_that_it_is_at(server: SluiceProcess) -> None:
    """Though others of those that take no time were sent ahead to it."""
    for _ in range(3):
        assert result_of(post(server.port, call("echo", value=1))) == 1
    with losing(server, 1), ExitStack() as stack:
        process = result_of(post(server.port, call("pid")))
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(300)]
        for number, client in enumerate(clients):
            client.post(PROCESS, call("echo", value=number))
            if number == 100:
                os.kill(process, signal.SIGKILL)
        answers = [client.answer() for client in clients]
        failed = [answer for answer in answers if answer[0].status != 200]
        assert [error_of(answer) for answer in failed] in ([], [(500, "worker-crashed")])
        assert all(
            document == {"result": number} for number, (head, document) in enumerate(answers) if head.status == 200
        )


@_under("hypercorn")
def test_a_full_queue_refuses_and_a_place_that_is_left_is_the_next_clients(
    server: SluiceProcess, tmp_path: Path, mark: Mark
) -> None:
    late = call("hold", begun=str(mark))

    def try_for_a_place() -> tuple[int, str]:
        answer = post(server.port, late, "127.0.0.2", Sluice_Queue_Deadline="0.01")
        assert error_of(answer)[1] != "overloaded" or int(answer[0].fields["retry-after"]) >= 1
        return error_of(answer)

    with losing(server, 0), held(server, tmp_path), ExitStack() as stack:
        assert try_for_a_place() == (504, "deadline")
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(_PATIENCE)]
        for number, client in enumerate(clients):
            client.post(PROCESS, call("echo", value=number))
        wait_until(lambda: try_for_a_place() == (503, "overloaded"), "the queue is full")
        clients[7].reset()
        wait_until(lambda: try_for_a_place() == (504, "deadline"), "there is a place")
    assert result_of(post(server.port, call("echo", value=1))) == 1
    assert not mark.exists


@_under("hypercorn")
def test_clients_take_turns(server: SluiceProcess, tmp_path: Path) -> None:
    marks = [tmp_path / name for name in ("greedy 1", "greedy 2", "greedy 3", "modest")]
    with held(server, tmp_path) as (_, gate), ExitStack() as stack:
        clients: list[RawClient] = []
        for mark in marks:
            source = "127.0.0.1" if mark.name.startswith("greedy") else "127.0.0.2"
            client = stack.enter_context(RawClient(server.port, source))
            client.post(PROCESS, call("hold", begun=str(mark), then=str(gate)))
            clients.append(client)
        gate.open()
        assert [result_of(client.answer()) for client in clients] == ["done"] * 4
    begun = sorted(marks, key=lambda mark: mark.stat().st_mtime_ns)
    assert begun.index(tmp_path / "modest") <= 1


# -- clients that leave ------------------------------------------------------------------------------------------------

leaving = pytest.mark.parametrize("leave", [RawClient.finish, RawClient.half_close, RawClient.reset])


@leaving
@under_one_process
def test_what_waits_for_a_client_that_left_never_starts(
    server: SluiceProcess, tmp_path: Path, mark: Mark, leave: Callable[[RawClient], None]
) -> None:
    id = f"waiting-{tmp_path.name}"
    with losing(server, 0), held(server, tmp_path), RawClient(server.port) as client:
        client.post(PROCESS, call("hold", begun=str(mark)), X_Request_Id=id)
        # One that came later was seen to: by then ours waits.
        assert error_of(post(server.port, call("pid"), Sluice_Queue_Deadline="0.01")) == (504, "deadline")
        leave(client)
        assert _outcome(server, id) == "disconnected"
    assert isinstance(result_of(post(server.port, call("pid"))), int)
    assert not mark.exists


@leaving
@_under("serve", "hypercorn-2")
def test_what_runs_for_a_client_that_left_is_told_and_cleans_up(
    server: SluiceProcess, tmp_path: Path, mark: Mark, leave: Callable[[RawClient], None]
) -> None:
    id = f"running-{tmp_path.name}"
    with losing(server, 0), RawClient(server.port) as client:
        client.post(PROCESS, call("hold", begun=str(mark)), X_Request_Id=id)
        mark.process()
        leave(client)
        wait_until(lambda: mark.cleaned_up, "the task ends")
        assert _outcome(server, id) == "disconnected"


@pytest.mark.parametrize("task", ["spin", "swallow"])
@under_every_command
def test_what_does_not_listen_is_killed_when_its_client_left(server: SluiceProcess, mark: Mark, task: str) -> None:
    with losing(server, 1):
        with RawClient(server.port) as client:
            client.post(PROCESS, call(task, begun=str(mark)))
            process = mark.process()
        assert_gone([process])
        assert result_of(post(server.port, call("echo", value=1))) == 1
    assert mark.was_told == (task == "swallow")


@under_every_command
def test_a_client_that_leaves_afterwards_changes_nothing(server: SluiceProcess, tmp_path: Path) -> None:
    id = f"afterwards-{tmp_path.name}"
    with losing(server, 0):
        with RawClient(server.port) as client:
            client.post(PROCESS, call("pid"), X_Request_Id=id)
            assert isinstance(result_of(client.answer()), int)
            client.reset()
        assert _outcome(server, id) == "ok"
        assert result_of(post(server.port, call("echo", value=1))) == 1


# -- time limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["Sluice_Queue_Deadline", "Sluice_Deadline"])
@under_one_process
def test_what_cannot_begin_in_time_never_does(server: SluiceProcess, tmp_path: Path, mark: Mark, field: str) -> None:
    with losing(server, 0), held(server, tmp_path):
        assert error_of(post(server.port, call("hold", begun=str(mark)), **{field: "0.1"})) == (504, "deadline")
    assert isinstance(result_of(post(server.port, call("pid"))), int)
    assert not mark.exists


@pytest.mark.parametrize("field", ["Sluice_Run_Deadline", "Sluice_Deadline"])
@_under("serve", "hypercorn-2")
def test_what_runs_for_too_long_is_told(server: SluiceProcess, mark: Mark, field: str) -> None:
    with losing(server, 0):
        # A queue's limit does not count once it runs.
        limits = {"Sluice_Queue_Deadline": "20", field: "0.2"}
        assert error_of(post(server.port, call("hold", begun=str(mark)), **limits)) == (504, "deadline")
        assert mark.cleaned_up


@pytest.mark.parametrize("field", ["Sluice_Run_Deadline", "Sluice_Deadline"])
@_under("hypercorn-2")
def test_an_infinite_loop_is_killed_at_its_deadline(server: SluiceProcess, mark: Mark, field: str) -> None:
    with losing(server, 1):
        assert error_of(post(server.port, call("spin", begun=str(mark)), **{field: "0.2"})) == (504, "deadline")
        assert result_of(post(server.port, call("echo", value=1))) == 1
