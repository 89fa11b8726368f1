"""The end of a server, under both commands that serve: what runs may finish, what is left is cut, nothing stays."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import LARGE_MIB, Store
from tests.faults.traffic import LOOKUP, RawClient, ask, locked_reports, refuses, turns_away, wait_until, waiting_lookup
from tests.mariadb import MariaDb
from tests.processes import HYPERCORN, SERVE, SluiceProcess, running

_MIB = 1024 * 1024

under_every_command = pytest.mark.parametrize(
    ("command", "workers"), [(SERVE, 1), (HYPERCORN, 1), (HYPERCORN, 2)], ids=["serve", "hypercorn", "hypercorn-2"]
)


def _start_download(client: RawClient) -> int:
    """Asks for the large report and reads its head only; its length."""
    client.get("/api/report/large-report")
    head = client.read_head()
    assert head.status == 200
    size = int(head.fields["content-length"])
    assert size >= LARGE_MIB * _MIB
    return size


def _tell(server: SluiceProcess, number: signal.Signals) -> None:
    """A terminal sends SIGINT to the whole process group; a supervisor sends SIGTERM to the one it started."""
    if number is signal.SIGINT:
        os.killpg(server.pid, number)
    else:
        server.signal(number)


def _counts(server: SluiceProcess) -> tuple[int, int]:
    stopped = server.events("stopped")
    return sum(line["finished"] for line in stopped), sum(line["cut"] for line in stopped)


def _group(leader: int) -> list[int]:
    """The living processes of its group."""
    members: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader and state != "Z":
            members.append(int(stat.parent.name))
    return members


def _assert_nothing_is_left(server: SluiceProcess, port: int) -> None:
    assert refuses(port)
    wait_until(lambda: not _group(server.pid), "no process is left")
    assert not [line for line in server.log() if "exception" in line]


@under_every_command
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_download_finishes_while_new_connections_are_turned_away(
    command: list[str], workers: int, number: signal.Signals, folder: Path
) -> None:
    with running(folder, command, workers=workers) as server, RawClient(server.port) as client:
        port = server.port
        size = _start_download(client)
        _tell(server, number)
        server.wait_for_event("shutting down", count=workers)
        wait_until(lambda: turns_away(port), "new connections are turned away")
        assert all(turns_away(port) for _ in range(10))
        assert server.process.poll() is None
        assert len(client.read(size)) == size
        assert server.wait() == 0
        assert len(server.events("stopped")) == workers
        finished, cut = _counts(server)
        assert finished >= 1  # the first look may have been in time to be answered
        assert cut == 0
        _assert_nothing_is_left(server, port)


@under_every_command
def test_what_is_left_after_the_drain_timeout_is_cut(
    command: list[str], workers: int, mysql_store: Store, mariadb: MariaDb
) -> None:
    variables = mysql_store.environment | {"SLUICE_DRAIN_TIMEOUT": "500ms"}
    with (
        running(mysql_store.folder, command, workers=workers, **variables) as server,
        RawClient(server.port) as never_reads,
    ):
        port = server.port
        size = _start_download(never_reads)
        with locked_reports(mariadb, mysql_store.database), waiting_lookup(mariadb, port) as waits:
            kills = mariadb.status("Com_kill")
            server.signal(signal.SIGTERM)
            head, document = waits.answer()
            assert (head.status, document["type"]) == (503, "urn:sluice:error:shutting-down")
            assert head.fields["connection"] == "close"
            assert "retry-after" in head.fields
            wait_until(lambda: not mariadb.processes(LOOKUP), "the query is ended on the server")
            assert mariadb.status("Com_kill") == kills + 1
            assert server.wait() == 0
        assert _counts(server) == (0, 2)
        cut = [line["path"] for line in server.events("request") if line["outcome"] == "shutdown"]
        assert sorted(cut) == ["/api/report/ada", "/api/report/large-report"]
        assert len(never_reads.read(size)) < size
        _assert_nothing_is_left(server, port)


@pytest.mark.parametrize("command", [SERVE, HYPERCORN], ids=["serve", "hypercorn"])
def test_a_request_that_waits_for_sql_finishes_in_time(
    command: list[str], mysql_store: Store, mariadb: MariaDb
) -> None:
    with (
        running(mysql_store.folder, command, workers=1, **mysql_store.environment) as server,
        RawClient(server.port) as client,
    ):
        with locked_reports(mariadb, mysql_store.database):
            client.get("/api/report/ada")
            wait_until(lambda: mariadb.processes(LOOKUP), "the look-up reaches the database")
            server.signal(signal.SIGTERM)
            server.wait_for_event("shutting down")
        head = client.read_head()
        assert (head.status, head.fields["connection"]) == (200, "close")
        size = int(head.fields["content-length"])
        assert len(client.read(size)) == size
        assert server.wait() == 0
        assert _counts(server) == (1, 0)


@pytest.mark.parametrize("command", [SERVE, HYPERCORN], ids=["serve", "hypercorn"])
def test_during_the_drain_delay_it_is_not_ready_but_still_serves(command: list[str], folder: Path) -> None:
    with running(folder, command, SLUICE_DRAIN_DELAY="5min") as server, RawClient(server.port) as kept:
        kept.get("/readyz")
        head, _ = kept.answer()
        assert (head.status, "connection" in head.fields) == (200, False)
        server.signal(signal.SIGTERM)
        server.wait_for_event("shutting down")
        head, document = ask(server.port, "/readyz")
        assert (head.status, document["type"]) == (503, "urn:sluice:error:not-ready")
        assert head.fields["connection"] == "close"
        head, _ = ask(server.port, "/healthz")
        assert (head.status, head.fields["connection"]) == (200, "close")
        kept.get("/healthz")
        head, _ = kept.answer()
        assert (head.status, head.fields["connection"]) == (200, "close")
        if command is SERVE:
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


def test_it_ends_by_itself_when_the_drain_delay_is_over(folder: Path) -> None:
    with running(folder, HYPERCORN, SLUICE_DRAIN_DELAY="300ms") as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert _counts(server) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_at_once_under_serve(number: signal.Signals, folder: Path) -> None:
    with running(folder, SERVE, SLUICE_DRAIN_TIMEOUT="5min") as server, RawClient(server.port) as never_reads:
        port = server.port
        _start_download(never_reads)
        server.signal(number)
        server.wait_for_event("shutting down")
        assert server.process.poll() is None
        server.signal(number)
        assert server.wait() == 0
        assert _counts(server) == (0, 1)
        _assert_nothing_is_left(server, port)


def test_a_busy_worker_keeps_draining_however_often_it_and_its_master_are_told(folder: Path) -> None:
    with running(folder, HYPERCORN, workers=2) as server, RawClient(server.port) as client:
        port = server.port
        size = _start_download(client)
        server.signal(signal.SIGTERM)
        server.wait_for_event("shutting down", count=2)
        wait_until(lambda: len(server.workers()) == 1, "the idle worker leaves")
        received = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            for pid in (server.pid, *server.workers()):
                os.kill(pid, number)
            received += len(client.read(_MIB))
        assert received == 3 * _MIB
        assert len(client.read(size)) == size - received
        assert server.wait() == 0
        assert _counts(server) == (1, 0)
        _assert_nothing_is_left(server, port)


def test_a_worker_that_is_told_alone_finishes_and_another_takes_its_place(folder: Path) -> None:
    with running(folder, HYPERCORN) as server, RawClient(server.port) as client:
        size = _start_download(client)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGTERM)
        server.wait_for_event("shutting down")
        os.kill(worker, signal.SIGTERM)
        assert len(client.read(size)) == size
        server.wait_for_event("stopped")
        # Who connects meanwhile waits for the next worker.
        head, _ = ask(server.port, "/healthz")
        assert head.status == 200
        assert server.workers() != [worker]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert _counts(server) == (1, 0)


def test_a_reload_puts_new_workers_in_place_of_the_old(folder: Path) -> None:
    with running(folder, HYPERCORN) as server:
        port, before = server.port, server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for_event("stopped")
        wait_until(lambda: not turns_away(port), "the new worker answers")
        head, _ = ask(port, "/healthz")
        assert head.status == 200
        assert server.workers() != before
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_worker_whose_rooms_are_gone_ends(folder: Path) -> None:
    command = [*HYPERCORN[:-1], "-w", "1", "tests.faults.ending_app:app"]
    with running(folder, command) as server:
        (worker,) = server.workers()
        ask(server.port, "/end")
        (line,) = server.wait_for_event("the application ended")
        assert "what they stand on is gone" in line["exception"]
        wait_until(lambda: worker not in server.workers(), "the worker ends")
        server.signal(signal.SIGTERM)
        server.wait()


def test_hypercorn_as_it_comes_ends_in_time_though_clients_stay(folder: Path) -> None:
    variables = {"SLUICE_WIRE": "stock", "SLUICE_DRAIN_TIMEOUT": "300ms"}
    with running(folder, HYPERCORN, workers=1, **variables) as server, ExitStack() as stack:
        _, begun, used, never_reads = (stack.enter_context(RawClient(server.port)) for _ in range(4))
        begun.send(b"GET / HTTP/1.1\r\n")
        used.get("/healthz")
        used.answer()
        _start_download(never_reads)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0  # a connection may be idle for longer than this waits
        wait_until(lambda: not _group(server.pid), "no process is left")


def test_hypercorn_as_it_comes_ends_in_order_with_idle_clients(folder: Path) -> None:
    with running(folder, HYPERCORN, workers=1, SLUICE_WIRE="stock") as server, RawClient(server.port) as used:
        used.get("/healthz")
        used.answer()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert _counts(server) == (0, 0)
