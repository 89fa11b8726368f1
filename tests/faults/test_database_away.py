"""MariaDB goes away and comes back under a server that runs, and never sees more connections than were asked for."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.faults.conftest import Store
from tests.faults.traffic import RawClient, ask, wait_until
from tests.mariadb import MariaDb
from tests.processes import HYPERCORN, SERVE, SluiceProcess, running

_POOL = 3
_CLIENTS = 50


class _Load:
    """Clients that ask without a pause, each on a connection that it keeps; what they were answered, by status."""

    def __init__(self, port: int, *paths: str) -> None:
        self.answers: Counter[int] = Counter()
        self.errors: list[Exception] = []
        self._port = port
        self._paths = paths
        self._stop = threading.Event()

    @contextmanager
    def running(self, clients: int) -> Generator[_Load]:
        threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        assert self.errors == []

    def _ask(self) -> None:
        try:
            with RawClient(self._port) as client:
                while not self._stop.is_set():
                    for path in self._paths:
                        client.get(path)
                        head = client.read_head()
                        client.read(int(head.fields["content-length"]))
                        self.answers[head.status] += 1
        except Exception as error:
            self.errors.append(error)


@contextmanager
def _stopped(mariadb: MariaDb) -> Generator[None]:
    mariadb.stop()
    try:
        yield
    finally:
        mariadb.start()


def _assert_no_traceback(server: SluiceProcess) -> None:
    assert not [line for line in server.log() if "exception" in line or line["event"] == "unexpected error"]


@pytest.mark.parametrize(("command", "workers"), [(SERVE, 1), (HYPERCORN, 2)], ids=["serve", "hypercorn-2"])
def test_while_the_database_is_away_requests_get_503_and_then_recover(
    command: list[str], workers: int, mysql_store: Store, mariadb: MariaDb
) -> None:
    with (
        running(mysql_store.folder, command, workers=workers, **mysql_store.environment) as server,
        _Load(server.port, "/api/report/ada").running(8) as load,
    ):
        wait_until(lambda: load.answers[200] > 100, "the load is served")
        with _stopped(mariadb):
            wait_until(lambda: load.answers[503] > 100, "the load is refused")
            head, document = ask(server.port, "/api/report/ada")
            assert (head.status, document["type"]) == (503, "urn:sluice:error:database-unavailable")
            assert int(head.fields["retry-after"]) >= 1
            head, document = ask(server.port, "/readyz")
            assert head.status == 503
            assert "database" in document["detail"]
            assert document["checks"]["database"]["status"] == "failing"
            assert document["checks"]["reports"]["status"] == "ok"
            assert ask(server.port, "/healthz")[0].status == 200
        served = load.answers[200]
        wait_until(lambda: load.answers[200] > served + 100, "it recovers by itself")
        wait_until(lambda: ask(server.port, "/readyz")[0].status == 200, "it is ready again")
        assert set(load.answers) <= {200, 503}
        _assert_no_traceback(server)


def test_a_server_stops_cleanly_while_the_database_is_away(mysql_store: Store, mariadb: MariaDb) -> None:
    with running(mysql_store.folder, SERVE, workers=1, **mysql_store.environment) as server, _stopped(mariadb):
        assert ask(server.port, "/readyz")[0].status == 503
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        _assert_no_traceback(server)


def test_fifty_requests_at_once_use_no_more_connections_than_the_pool_has(mysql_store: Store, mariadb: MariaDb) -> None:
    variables = mysql_store.environment | {"SLUICE_DB_POOL": str(_POOL)}
    with (
        running(mysql_store.folder, SERVE, workers=1, **variables) as server,
        mariadb.connect() as root,
        root.cursor() as cursor,
    ):
        cursor.execute("FLUSH STATUS")
        # Each readiness check has a connection to itself; look-ups of reports share theirs.
        with _Load(server.port, "/readyz", "/api/report/ada").running(_CLIENTS) as load:
            wait_until(lambda: load.answers.total() > 10 * _CLIENTS, "the load is served", seconds=60)
        assert set(load.answers) == {200}
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
        ours = int(cursor.fetchall()[0][1]) - 1
    assert ours == _POOL
