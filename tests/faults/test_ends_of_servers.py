"""How servers end that have tasks and jobs: what may finish does, the rest is told, and nothing is left; and what the
next server, or another one, finds where there was no time for that."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.computing import PROCESS, Gate, Mark, call, computing, error_of, post, result_of
from tests.faults.job_store import JobStore, begin, embedded_store, mysql_store, until
from tests.faults.process_tree import assert_gone, owner, session
from tests.faults.traffic import RawClient, refuses, wait_until
from tests.mariadb import MariaDb
from tests.processes import HYPERCORN, SERVE, SluiceProcess

HASTY = [*HYPERCORN[:-1], "tests.faults.hasty_app:build()"]


@pytest.fixture
def embedded(folder: Path) -> JobStore:
    return embedded_store(folder)


@pytest.fixture
def mysql(tmp_path: Path, mariadb: MariaDb) -> JobStore:
    return mysql_store(tmp_path, mariadb)


def _ended_in_order(server: SluiceProcess) -> None:
    assert server.wait() == 0
    wait_until(lambda: not session(server.pid), "no process is left")
    assert not [line for line in server.log() if "exception" in line or line["level"] == "error"]


# -- told to end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "kind"), [(SERVE, "embedded"), (HYPERCORN, "mysql")], ids=["serve", "hypercorn"])
def test_what_ends_in_time_does_and_the_rest_is_cancelled(
    command: list[str], kind: str, request: pytest.FixtureRequest
) -> None:
    store: JobStore = request.getfixturevalue(kind)
    folder, gate = store.folder, Gate(store.folder / "gate")
    in_time, told, deaf, waiting = (Mark(folder / name) for name in ("in-time", "told", "deaf", "waiting"))
    variables = store.environment | {"SLUICE_COMPUTE_WORKERS": "3", "SLUICE_DRAIN_TIMEOUT": "2s"}
    with computing(folder, command, variables) as server, RawClient(server.port) as subscriber:
        port = server.port
        everything = session(server.pid)
        jobs = {
            mark: begin(port, call(task, begun=str(mark), **more))
            for mark, task, more in (
                (in_time, "hold", {"then": str(gate)}),
                (told, "hold", {}),
                (deaf, "spin", {}),
                (waiting, "hold", {}),
            )
        }
        processes = [mark.process() for mark in (in_time, told, deaf)]
        assert set(processes) < set(everything)
        subscriber.get(f"/api/jobs/{jobs[told]}/events")
        assert b'"state":"running"' in subscriber.read_until(b"\n\n")
        server.signal(signal.SIGTERM)
        # The stream of events ends at once, in order, and says when to come again; its job goes on.
        last = subscriber.read_until(b"\r\n0\r\n\r\n")
        assert last.endswith(b"retry: 1000\n\n\r\n0\r\n\r\n")
        assert store.state(jobs[told]) == "running"
        assert not told.cleaned_up
        if command is HYPERCORN:  # whose workers go on, however often they are told
            for pid in (server.pid, *server.workers()):
                os.kill(pid, signal.SIGTERM)
        gate.open()
        wait_until(lambda: store.state(jobs[in_time]) == "succeeded", "the job ends in the drain")
        assert server.process.poll() is None
        _ended_in_order(server)
        assert_gone(everything)
    assert {mark: store.state(id) for mark, id in jobs.items()} == {
        in_time: "succeeded",
        told: "cancelled",
        deaf: "cancelled",
        waiting: "cancelled",
    }
    assert {store.error(jobs[mark]) for mark in (told, deaf, waiting)} == {"shutting-down"}
    assert told.cleaned_up
    assert store.query("SELECT COUNT(*) FROM instances", ()) == [(0,)]


@pytest.mark.parametrize(
    ("command", "workers", "number"),
    [(SERVE, 1, signal.SIGTERM), (SERVE, 1, signal.SIGINT), (HYPERCORN, 2, signal.SIGTERM)],
    ids=["serve", "serve-interrupt", "hypercorn-2"],
)
def test_a_signal_to_all_of_its_processes_leaves_those_that_compute_to_the_server(
    command: list[str], workers: int, number: signal.Signals, embedded: JobStore
) -> None:
    folder, gate = embedded.folder, Gate(embedded.folder / "gate")
    asked, begun = Mark(folder / "asked"), Mark(folder / "begun")
    with (
        computing(folder, command, workers=workers) as server,
        RawClient(server.port) as client,
    ):
        everything = session(server.pid)
        client.post(PROCESS, call("hold", begun=str(asked), then=str(gate)))
        process = asked.process()
        id = begin(server.port, call("hold", begun=str(begun), then=str(gate)))  # which may have to wait
        os.killpg(server.pid, number)
        server.wait_for_event("shutting down", count=workers)
        gate.open()
        assert result_of(client.answer()) == "done"
        _ended_in_order(server)
        assert_gone(everything)
    assert process in everything
    assert int(begun.path.read_text()) in [one.pid for one in everything]
    assert embedded.state(id) == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_ends_workers_which_are_just_starting_ends_no_job(
    number: signal.Signals, embedded: JobStore
) -> None:
    with computing(embedded.folder, SERVE) as server:
        id = begin(server.port, call("echo", value=1))
        os.killpg(server.pid, number)
        # Python has a word about its own, on standard error, where it is interrupted while it starts.
        assert server.wait() == 0
        wait_until(lambda: not session(server.pid), "no process is left")
    assert embedded.state(id) == "succeeded"


def test_hypercorn_as_it_comes_waits_for_the_last_words_of_jobs(embedded: JobStore) -> None:
    deaf = Mark(embedded.folder / "deaf")
    variables = {"SLUICE_WIRE": "stock", "SLUICE_DRAIN_TIMEOUT": "200ms", "SLUICE_TASK_GRACE": "1500ms"}
    with computing(embedded.folder, HYPERCORN, variables) as server:
        id = begin(server.port, call("spin", begun=str(deaf)))
        process = deaf.process()
        server.signal(signal.SIGTERM)
        _ended_in_order(server)
        assert_gone([process])
    assert embedded.state(id) == "cancelled"


def test_a_second_signal_cancels_all_at_once(embedded: JobStore) -> None:
    """Also what has to be killed: its grace period ends after the time when nothing is waited for any more."""
    told, deaf, keyed = (Mark(embedded.folder / name) for name in ("told", "deaf", "keyed"))
    variables = {"SLUICE_COMPUTE_WORKERS": "3", "SLUICE_DRAIN_TIMEOUT": "5min", "SLUICE_TASK_GRACE": "1500ms"}
    with computing(embedded.folder, SERVE, variables) as server, RawClient(server.port) as client:
        everything = session(server.pid)
        client.post(PROCESS, call("hold", begun=str(keyed)), Prefer="wait=30", Idempotency_Key="once")
        jobs = [
            begin(server.port, call("hold", begun=str(told))),
            begin(server.port, call("spin", begun=str(deaf))),
        ]
        processes = {mark.process() for mark in (told, deaf, keyed)}
        assert processes < set(everything)
        server.signal(signal.SIGTERM)
        server.wait_for_event("shutting down")
        assert server.process.poll() is None
        server.signal(signal.SIGTERM)
        assert error_of(client.answer()) == (503, "shutting-down")
        _ended_in_order(server)
        assert_gone(everything)
    assert [embedded.state(id) for id in jobs] == ["cancelled", "cancelled"]
    assert {embedded.state(id) for id in embedded.ids()} == {"cancelled"}
    assert told.cleaned_up
    assert keyed.cleaned_up
    assert embedded.query("SELECT * FROM idempotency_keys", ()) == []


# -- killed ------------------------------------------------------------------------------------------------------------


def test_what_a_killed_server_leaves_the_next_one_finds(embedded: JobStore) -> None:
    folder, gate = embedded.folder, Gate(embedded.folder / "gate")
    asked, lost, again, keyed = (Mark(folder / name) for name in ("asked", "lost", "again", "keyed"))
    key = {"Idempotency_Key": "once"}
    request = call("hold", begun=str(keyed), then=str(gate))
    with computing(folder, SERVE, {"SLUICE_COMPUTE_WORKERS": "4"}) as server, ExitStack() as stack:
        everything = session(server.pid)
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(2)]
        clients[0].post(PROCESS, call("spin", begun=str(asked)))
        clients[1].post(PROCESS, request, **key)
        is_lost = begin(server.port, call("hold", begun=str(lost)))
        is_retried = begin(server.port, call("hold-again", begun=str(again), then=str(gate)))
        first = {mark.process() for mark in (asked, lost, again, keyed)}
        assert first < set(everything)
        kept = (is_lost, is_retried)
        wait_until(lambda: {embedded.state(id) for id in kept} == {"running"}, "the database knows that both run")
        port = server.port
        server.signal(signal.SIGKILL)
        assert_gone(everything, 3)
        assert not session(server.pid)
        assert refuses(port)
    assert [embedded.state(id) for id in kept] == ["running", "running"]
    with computing(folder, SERVE) as server:
        # It is dead once it was silent for ten seconds.
        assert until(server.port, is_lost, "lost", 30)["error"]["type"] == "urn:sluice:error:job-lost"
        wait_until(lambda: again.process() not in first, "the other is run again")
        gate.open()
        assert until(server.port, is_retried, "succeeded")["result"] == "done"
        wait_until(lambda: post(server.port, request, **key)[0].status == 200, "the key is free")
        server.signal(signal.SIGTERM)
        _ended_in_order(server)


def test_a_server_finds_the_jobs_of_another_that_died(mysql: JobStore) -> None:
    folder, gate = mysql.folder, Gate(mysql.folder / "gate")
    lost, again, cancelled = (Mark(folder / name) for name in ("lost", "again", "cancelled"))
    with (
        computing(folder, HASTY, mysql.environment | {"SLUICE_COMPUTE_WORKERS": "3"}) as server,
        computing(folder, HASTY, mysql.environment) as survivor,
    ):
        everything = session(server.pid)
        is_lost = begin(server.port, call("hold", begun=str(lost)))
        is_retried = begin(server.port, call("hold-again", begun=str(again), then=str(gate)))
        is_cancelled = begin(server.port, call("hold-again", begun=str(cancelled), then=str(gate)))
        first = [mark.process() for mark in (lost, again, cancelled)]
        (serving,) = {owner(process.pid) for process in first}
        assert [serving] == server.workers()
        with RawClient(survivor.port) as client:
            os.kill(serving, signal.SIGSTOP)  # so that the request to cancel stays
            client.request("DELETE", f"/api/jobs/{is_cancelled}")
            asked = "SELECT cancel_requested FROM jobs WHERE id = %s"
            wait_until(lambda: mysql.query(asked, (is_cancelled,)) == [(1,)], "it is to be cancelled")
            os.kill(serving, signal.SIGKILL)
            assert_gone(everything, 5)  # with its worker the server ends
            until(survivor.port, is_lost, "lost", 30)
            until(survivor.port, is_cancelled, "cancelled")
            wait_until(lambda: again.process() not in first, "the other is run again")
            gate.open()
            assert until(survivor.port, is_retried, "succeeded")["result"] == "done"


def test_the_jobs_of_a_worker_whose_master_was_killed_are_cancelled(embedded: JobStore) -> None:
    told, deaf = Mark(embedded.folder / "told"), Mark(embedded.folder / "deaf")
    with computing(embedded.folder, HYPERCORN, {"SLUICE_COMPUTE_WORKERS": "2"}) as server, ExitStack() as stack:
        everything = session(server.pid)
        client = stack.enter_context(RawClient(server.port))
        client.post(PROCESS, call("spin", begun=str(deaf)))
        id = begin(server.port, call("hold", begun=str(told)))
        assert told.process() != deaf.process()
        server.signal(signal.SIGKILL)
        assert error_of(client.answer()) == (503, "shutting-down")
        assert_gone(everything, 5)
        assert not session(server.pid)
    assert embedded.state(id) == "cancelled"
    assert told.cleaned_up
