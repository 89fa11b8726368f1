"""A client that goes away, or is late: what its request was waiting for ends at once, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import pytest

from tests.faults.conftest import Store
from tests.faults.traffic import LOOKUP, RawClient, ask, locked_reports, wait_until, waiting_lookup
from tests.mariadb import MariaDb
from tests.processes import HYPERCORN, SERVE, SluiceProcess, running


@pytest.fixture(scope="module", params=[SERVE, HYPERCORN], ids=["serve", "hypercorn"])
def server(request: pytest.FixtureRequest, mysql_store: Store) -> Iterator[SluiceProcess]:
    with running(mysql_store.folder, request.param, workers=1, **mysql_store.environment) as process:
        yield process


@pytest.fixture
def kills(mariadb: MariaDb, mysql_store: Store) -> Iterator[int]:
    """Look-ups wait while the test runs; how many queries had been killed before it."""
    before = mariadb.status("Com_kill")
    with locked_reports(mariadb, mysql_store.database):
        yield before


def _assert_ended(mariadb: MariaDb, server: SluiceProcess, request_id: str, kills: int) -> None:
    """The query is gone while the lock is still held, and the log tells of no error.

    Gone because it was killed: MariaDB itself looks only once a second whether a client that waits is still there.
    """

    def lines() -> list[str]:
        return [line["outcome"] for line in server.events("request") if line["request_id"] == request_id]

    wait_until(lambda: not mariadb.processes(LOOKUP), "the query is ended on the server")
    assert mariadb.status("Com_kill") == kills + 1
    wait_until(lines, "the request is logged")
    (line,) = [line for line in server.events("request") if line["request_id"] == request_id]
    assert (line["outcome"], line["status"]) == ("disconnected", 499)
    assert not [line for line in server.log() if line["level"] not in {"info"}]


@pytest.mark.parametrize("leave", [RawClient.finish, RawClient.half_close, RawClient.reset])
def test_a_client_that_leaves_ends_its_query_on_the_server(
    leave: Callable[[RawClient], None], server: SluiceProcess, mariadb: MariaDb, kills: int
) -> None:
    name = f"{leave.__name__}-{server.pid}"
    with waiting_lookup(mariadb, server.port, X_Request_Id=name) as client:
        leave(client)
        _assert_ended(mariadb, server, name, kills)


@pytest.mark.parametrize("leave", [RawClient.finish, RawClient.reset])
def test_a_pipelined_request_does_not_hide_that_the_client_left(
    leave: Callable[[RawClient], None], server: SluiceProcess, mariadb: MariaDb, kills: int
) -> None:
    name = f"pipelined-{leave.__name__}-{server.pid}"
    with waiting_lookup(mariadb, server.port, X_Request_Id=name) as client:
        client.get("/healthz")
        leave(client)
        _assert_ended(mariadb, server, name, kills)


def test_a_client_that_leaves_in_the_middle_of_a_body_ends_its_query(
    server: SluiceProcess, mariadb: MariaDb, kills: int
) -> None:
    name = f"body-{server.pid}"
    with waiting_lookup(mariadb, server.port, X_Request_Id=name, Content_Length="1000000") as client:
        client.send(bytes(30_000))  # which the kernel keeps: the end of what it has no room for cannot be seen
        client.finish()
        _assert_ended(mariadb, server, name, kills)


def test_a_reset_stream_ends_its_query_and_the_connection_goes_on(
    server: SluiceProcess, mariadb: MariaDb, kills: int
) -> None:
    name = f"stream-{server.pid}"
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    head = [(":method", "GET"), (":path", "/api/report/ada"), (":scheme", "http"), (":authority", "sluice")]
    connection.send_headers(1, [*head, ("x-request-id", name)], end_stream=True)
    with RawClient(server.port) as client:
        client.send(connection.data_to_send())
        wait_until(lambda: mariadb.processes(LOOKUP), "the look-up reaches the database")
        connection.reset_stream(1)
        client.send(connection.data_to_send())
        _assert_ended(mariadb, server, name, kills)


def test_a_request_past_its_deadline_is_answered_and_its_query_is_ended(
    server: SluiceProcess, mariadb: MariaDb, kills: int
) -> None:
    head, document = ask(server.port, "/api/report/ada", Sluice_Deadline="0.3")
    assert (head.status, document["type"]) == (504, "urn:sluice:error:deadline")
    wait_until(lambda: not mariadb.processes(LOOKUP), "the query is ended on the server")
    assert mariadb.status("Com_kill") == kills + 1


def test_a_client_that_leaves_does_not_hurt_another_that_waits_for_the_same_report(
    server: SluiceProcess, mariadb: MariaDb, kills: int
) -> None:
    name = f"leaves-{server.pid}"
    with waiting_lookup(mariadb, server.port) as first, RawClient(server.port) as stays, RawClient(server.port) as goes:
        stays.get("/api/report/grace", Sluice_Deadline="2")
        goes.get("/api/report/grace", X_Request_Id=name)
        time.sleep(0.3)  # until its look-up waits too, which shows nowhere
        goes.finish()
        wait_until(lambda: name in server.stderr(), "the request is logged")
        assert stays.read_head().status == 504
        assert len(mariadb.processes(LOOKUP)) == 1
        assert mariadb.status("Com_kill") == kills + 1
        first.finish()
        wait_until(lambda: not mariadb.processes(LOOKUP), "the query is ended on the server")
