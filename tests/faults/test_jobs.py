"""Jobs under the real commands, of several processes on one database: any of them sees, follows and cancels each."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.computing import (
    PROCESS,
    Gate,
    Mark,
    call,
    computing,
    error_of,
    held,
    losing,
    post,
    result_of,
)
from tests.faults.job_store import JobStore, begin, delete, embedded_store, mysql_store, shown, until
from tests.faults.process_tree import owner
from tests.faults.traffic import RawClient, ask, wait_until
from tests.processes import HYPERCORN, SERVE, SluiceProcess


@dataclass(frozen=True)
class Site:
    """Three serving processes on one database: two of Hypercorn's, and one beside them, each with one worker."""

    store: JobStore
    several: SluiceProcess
    other: SluiceProcess


@pytest.fixture(scope="module", params=["sqlite", "mysql"])
def site(
    request: pytest.FixtureRequest, embedded_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One for all tests here: whatever they do to it, it goes on."""
    folder = shutil.copytree(embedded_template, tmp_path_factory.mktemp(request.param) / "data")
    mysql = request.param == "mysql"
    store = mysql_store(folder, request.getfixturevalue("mariadb")) if mysql else embedded_store(folder)
    with (
        computing(folder, HYPERCORN, store.environment, workers=2) as several,
        computing(folder, SERVE, store.environment) as other,
    ):
        yield Site(store, several, other)
        for server in (several, other):
            assert not [line for line in server.log() if line["event"] == "unexpected error" or "exception" in line]


@pytest.fixture
def mark(tmp_path: Path) -> Mark:
    return Mark(tmp_path / "mark")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "killed"), [("hold", 0), ("spin", 1)])
def test_a_job_is_cancelled_through_another_server(site: Site, mark: Mark, task: str, killed: int) -> None:
    with losing(site.several, killed), losing(site.other, 0):
        id = begin(site.several.port, call(task, begun=str(mark)))
        process = mark.process()
        assert delete(site.other.port, id) == 204
        assert mark.cleaned_up == (task == "hold")
        assert process.lives == (task == "hold")
        assert site.store.state(id) == "cancelled"
        assert (shown(site.other.port, id), site.store.error(id)) == (shown(site.several.port, id), "task-cancelled")


@contextmanager
def _connected_to_another(server: SluiceProcess, worker: int) -> Generator[RawClient]:
    """A client whom any worker of the server has accepted but that one."""
    os.kill(worker, signal.SIGSTOP)
    try:
        client = RawClient(server.port)
        client.get("/healthz")
        client.answer()
    finally:
        os.kill(worker, signal.SIGCONT)
    with client:
        yield client


def test_a_job_is_cancelled_through_another_worker_of_its_server(site: Site, mark: Mark) -> None:
    with losing(site.several, 0):
        id = begin(site.several.port, call("hold", begun=str(mark)))
        serving = owner(mark.process().pid)
        assert serving in site.several.workers()
        with _connected_to_another(site.several, serving) as client:
            client.request("DELETE", f"/api/jobs/{id}")
            assert client.answer()[0].status == 204
        assert mark.cleaned_up
        assert site.store.state(id) == "cancelled"


def test_a_job_that_waits_is_cancelled_and_never_starts(site: Site, tmp_path: Path, mark: Mark) -> None:
    with held(site.other, tmp_path):
        id = begin(site.other.port, call("hold", begun=str(mark)))
        assert shown(site.other.port, id)["state"] == "queued"
        assert delete(site.several.port, id) == 204
        assert site.store.state(id) == "cancelled"
    assert isinstance(result_of(post(site.other.port, call("pid"))), int)
    assert not mark.exists


# -- what becomes of it ------------------------------------------------------------------------------------------------


def test_a_crash_is_told_by_its_job(site: Site) -> None:
    with losing(site.other, 1):
        id = begin(site.other.port, call("segfault"))
        job = until(site.several.port, id, "failed")
        assert (job["error"]["type"], job["error"]["signal"]) == ("urn:sluice:error:worker-crashed", "SIGSEGV")
        assert "Traceback" not in str(job)
        answer = ask(site.several.port, f"/api/jobs/{id}/result")
        assert error_of(answer) == (409, "job-not-finished")
        assert answer[1]["cause"] == job["error"]


def test_a_job_is_followed_from_another_server(site: Site, mark: Mark, gate: Gate) -> None:
    id = begin(site.several.port, call("hold", begun=str(mark), then=str(gate)))
    mark.process()
    with RawClient(site.other.port) as client:
        client.get(f"/api/jobs/{id}/events")
        assert client.read_head().status == 200
        first = client.read_until(b"\n\n")
        assert b"data: {" in first
        gate.open()
        rest = client.read_until(b"\r\n0\r\n\r\n")
        assert b'"state":"succeeded"' in rest
        assert b'"result":"done"' in rest


def test_a_refused_job_leaves_no_row(site: Site, tmp_path: Path) -> None:
    with held(site.other, tmp_path):
        waiting = [begin(site.other.port, call("echo", value=number)) for number in range(2)]
        before = site.store.ids()
        answer = post(site.other.port, call("echo", value=3), Prefer="respond-async")
        assert error_of(answer) == (503, "overloaded")
        assert int(answer[0].fields["retry-after"]) >= 1
        assert site.store.ids() == before
    assert [until(site.several.port, id, "succeeded")["result"] for id in waiting] == [0, 1]


# -- clients that prefer to wait ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [RawClient.finish, RawClient.reset])
def test_a_client_that_leaves_while_it_waits_takes_its_job_with_it(
    site: Site, mark: Mark, leave: Callable[[RawClient], None]
) -> None:
    before = site.store.ids()
    with losing(site.several, 0), RawClient(site.several.port) as client:
        client.post(PROCESS, call("hold", begun=str(mark)), Prefer="wait=30")
        mark.process()
        wait_until(lambda: site.store.ids() - before, "the job is written down")
        (id,) = site.store.ids() - before
        leave(client)
        wait_until(lambda: mark.cleaned_up, "the task ends")
        until(site.other.port, id, "cancelled")


def test_who_waits_gets_the_result_or_else_a_job_that_goes_on(site: Site, mark: Mark, gate: Gate) -> None:
    head, document = post(site.several.port, call("echo", value=1), Prefer="wait=30")
    assert (head.status, document, head.fields["preference-applied"]) == (200, {"result": 1}, "wait=30")
    request = call("hold", begun=str(mark), then=str(gate))
    head, job = post(site.several.port, request, Prefer="wait=0, respond-async")
    assert (head.status, head.fields["location"]) == (202, f"/api/jobs/{job['id']}")
    gate.open()
    assert until(site.other.port, job["id"], "succeeded")["result"] == "done"


# -- idempotency keys --------------------------------------------------------------------------------------------------


def test_a_key_is_had_by_one_request_at_a_time_and_its_answer_by_all(
    site: Site, tmp_path: Path, mark: Mark, gate: Gate
) -> None:
    key = f'"{tmp_path}"'
    request = call("hold", begun=str(mark), then=str(gate))
    ports = [site.several.port, site.several.port, site.other.port]  # with luck each of the three processes
    with RawClient(site.several.port) as client:
        client.post(PROCESS, request, Idempotency_Key=key)
        process = mark.process()
        for port in ports:
            assert error_of(post(port, request, Idempotency_Key=key)) == (409, "idempotency-conflict")
            assert error_of(post(port, call("pid"), Idempotency_Key=key)) == (422, "idempotency-mismatch")
        gate.open()
        assert result_of(client.answer()) == "done"
    assert int(mark.path.read_text()) == process.pid
    mark.path.unlink()
    for port in ports:
        assert result_of(post(port, request, Idempotency_Key=key)) == "done"
        assert error_of(post(port, call("pid"), Idempotency_Key=key)) == (422, "idempotency-mismatch")
    assert not mark.exists


def test_the_same_key_is_the_same_job(site: Site, tmp_path: Path) -> None:
    ids = {
        begin(port, call("echo", value=1), Idempotency_Key=str(tmp_path))
        for port in (site.several.port, site.other.port, site.several.port, site.other.port)
    }
    assert len(ids) == 1


@pytest.mark.parametrize("prefer", ["", "wait=30"])
def test_the_key_of_a_client_that_left_is_free(site: Site, tmp_path: Path, mark: Mark, gate: Gate, prefer: str) -> None:
    request = call("hold", begun=str(mark), then=str(gate))
    fields = {"Idempotency_Key": str(tmp_path), "Prefer": prefer}
    with RawClient(site.several.port) as client:
        client.post(PROCESS, request, **fields)
        mark.process()
    wait_until(lambda: mark.cleaned_up, "the task ends")
    gate.open()
    # Until its claim is given up there is a conflict.
    wait_until(lambda: post(site.other.port, request, **fields)[0].status == 200, "the key is free")


def test_a_failure_is_not_kept(site: Site, tmp_path: Path) -> None:
    with losing(site.other, 1):
        answer = post(site.other.port, call("segfault"), Idempotency_Key=str(tmp_path))
        assert error_of(answer) == (500, "worker-crashed")
        assert result_of(post(site.several.port, call("echo", value=1), Idempotency_Key=str(tmp_path))) == 1
