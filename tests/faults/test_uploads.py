"""Reports that come in while things go wrong: a row never without its bytes, and nothing left behind."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

import pytest

from app.settings import DatabaseSettings, load_settings
from app.storage.migrate import migrate
from tests.exchange import Answer, Fields, ask
from tests.faults.traffic import RawClient, wait_until
from tests.mariadb import MariaDb, environment
from tests.processes import HYPERCORN, PYTHON, SERVE, SluiceProcess, command_environment, running

_MIB = 1024 * 1024
_SELECT = "SELECT report_path, size, digest FROM"


@dataclass
class Place:
    """A data folder of the test's own; its rows, as the database has them, and its files."""

    folder: Path
    variables: dict[str, str]
    query: Callable[[str], list[tuple[str, int, str]]]

    def rows(self) -> list[tuple[str, int, str]]:
        return [row for table in ("user_reports", "report_versions") for row in self.query(f"{_SELECT} {table}")]

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    def files(self) -> set[str]:
        return {str(path.relative_to(self.reports)) for path in self.reports.rglob("*") if path.is_file()}

    def check(self) -> None:
        """Each row has its bytes, and nothing else is there."""
        rows = self.rows()
        for path, size, digest in rows:
            data = (self.reports / path).read_bytes()
            assert (len(data), sha256(data).hexdigest()) == (size, digest)
        assert self.files() == {path for path, _, _ in rows}


@pytest.fixture
def embedded(tmp_path: Path) -> Place:
    def query(sql: str) -> list[tuple[str, int, str]]:
        with closing(sqlite3.connect(tmp_path / "sluice.db")) as connection:
            return connection.execute(sql).fetchall()

    return _migrated(Place(tmp_path, {}, query))


@pytest.fixture
def mysql(tmp_path: Path, mariadb: MariaDb, mysql_settings: DatabaseSettings) -> Place:
    def query(sql: str) -> list[tuple[str, int, str]]:
        return [(path, size, digest) for path, size, digest in mariadb.query(sql, database=mysql_settings.name)]

    return _migrated(Place(tmp_path, environment(mysql_settings), query))


def _migrated(place: Place) -> Place:
    migrate(load_settings({"SLUICE_DATA_DIR": str(place.folder), **place.variables}).database)
    return place


def _put(port: int, user: str, body: bytes, fields: Fields = ()) -> Answer:
    return ask(port, "PUT", f"/api/report/{user}", fields, body)


def _get(port: int, user: str) -> Answer:
    return ask(port, "GET", f"/api/report/{user}")


def _begin_upload(client: RawClient, user: str, sent: int, announced: int) -> None:
    client.send(f"PUT /api/report/{user} HTTP/1.1\r\nHost: sluice\r\nContent-Length: {announced}\r\n\r\n".encode())
    client.send(bytes(sent))


# -- a client that leaves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["sluice", "stock"])
def test_of_an_upload_whose_client_leaves_nothing_stays(embedded: Place, wire: str) -> None:
    with running(embedded.folder, SLUICE_WIRE=wire) as server:
        assert _put(server.port, "ada", b"old").status == 201
        before = embedded.files()
        for number, leave in enumerate((RawClient.finish, RawClient.reset, RawClient.half_close), 1):
            with RawClient(server.port) as client:
                _begin_upload(client, "ada", 3 * _MIB, 4 * _MIB)
                wait_until(lambda: _largest(embedded.files() - before, embedded) >= _MIB, "the upload is written")
                leave(client)
                wait_until(lambda: embedded.files() == before, "its file is removed")
            wait_until(lambda n=number: _outcomes(server)["disconnected"] == n, "it is logged as disconnected")
        assert _get(server.port, "ada").body == b"old"
        assert not [line for line in server.log() if line["level"] == "error"]
        embedded.check()


def _largest(paths: set[str], place: Place) -> int:
    sizes = [0]
    for path in paths:
        try:
            sizes.append((place.reports / path).stat().st_size)
        except FileNotFoundError:
            continue
    return max(sizes)


def _outcomes(server: SluiceProcess) -> Counter[str]:
    return Counter(line["outcome"] for line in server.events("request"))


def test_of_an_upload_that_the_shutdown_cuts_nothing_stays(embedded: Place) -> None:
    with running(embedded.folder, SLUICE_DRAIN_TIMEOUT="200ms") as server, RawClient(server.port) as client:
        _begin_upload(client, "ada", 2 * _MIB, 4 * _MIB)
        wait_until(lambda: _largest(embedded.files(), embedded) >= _MIB, "the upload is written")
        server.signal(signal.SIGTERM)
        server.wait()
    assert embedded.files() == set()


# -- a disk that is full -----------------------------------------------------------------------------------------------


def test_where_there_is_no_room_it_is_507_and_nothing_stays(embedded: Place) -> None:
    # No file may be longer than 4 MiB, in the shell's units of 512 bytes.
    limited = ["sh", "-c", 'ulimit -f 8192; exec "$@"', "sh", *SERVE]
    with running(embedded.folder, limited) as server:
        assert _put(server.port, "ada", bytes(3 * _MIB)).status == 201
        before = embedded.files()
        full = _put(server.port, "ada", bytes(6 * _MIB))
        assert (full.status, full.problem["type"]) == (507, "urn:sluice:error:insufficient-storage")
        assert embedded.files() == before
        assert len(_get(server.port, "ada").body) == 3 * _MIB
        assert _put(server.port, "ada", b"fits").status == 200
        embedded.check()
        assert not [line for line in server.log() if "exception" in line]


def test_a_command_that_finds_no_room_says_so_in_one_line_and_leaves_nothing(embedded: Place) -> None:
    (embedded.folder / "large").write_bytes(bytes(6 * _MIB))
    command = ["sh", "-c", 'ulimit -f 8192; exec "$@"', "sh", PYTHON, "-m", "app", "add", "ada", "large"]
    environment = command_environment(embedded.folder)
    done = subprocess.run(command, env=environment, cwd=embedded.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no room" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert embedded.files() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_leaves_nothing(embedded: Place, number: signal.Signals) -> None:
    with (embedded.folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    command = [PYTHON, "-m", "app", "add", "ada", "huge"]
    environment = command_environment(embedded.folder)
    with subprocess.Popen(command, env=environment, cwd=embedded.folder, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: _largest(embedded.files(), embedded) >= _MIB, "it has begun")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "sluice: interrupted\n")
    assert embedded.files() == set()


# -- a process that is killed ------------------------------------------------------------------------------------------

_AT_ONCE = 13
_LATEST_KILL_SECONDS = 0.03


@dataclass
class _Uploads:
    """What clients were told about what they sent: digests of bodies, by user in order."""

    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        return sum(map(len, list(self.acknowledged.values())))

    def put(self, port: int, user: str, body: bytes) -> None:
        try:
            answer = _put(port, user, body)
        except (OSError, HTTPException):
            return  # the server is dead
        assert answer.status in {200, 201}
        with self.lock:
            self.acknowledged.setdefault(user, []).append(sha256(body).hexdigest())


@pytest.mark.parametrize(("kind", "rounds"), [("embedded", 5), ("mysql", 3)])
def test_whenever_it_is_killed_each_row_has_its_bytes_and_the_next_start_sweeps_the_rest(
    request: pytest.FixtureRequest, kind: str, rounds: int
) -> None:
    """104 uploads and 8 kills; half of the users are the same in each round."""
    place: Place = request.getfixturevalue(kind)
    chance = random.Random()
    uploads = _Uploads()
    killed_with: list[int] = []
    for number in range(rounds):
        enough = uploads.count + chance.randrange(_AT_ONCE)
        users = [f"user-{index if index % 2 else f'{number}-{index}'}" for index in range(_AT_ONCE)]
        with (
            running(place.folder, None, workers=1, **place.variables) as server,
            ThreadPoolExecutor(_AT_ONCE) as clients,
        ):
            port = server.port
            for user in users:
                clients.submit(uploads.put, port, user, chance.randbytes(chance.randrange(1, 2 * _MIB)))
            wait_until(lambda n=enough: uploads.count >= n, "some uploads are done")
            time.sleep(chance.uniform(0, _LATEST_KILL_SECONDS))  # any moment is as good as another
            server.process.kill()
            server.wait()
        killed_with.append(len(place.files() - {path for path, _, _ in place.rows()}))
    with running(place.folder, None, workers=1, **place.variables) as server:
        server.wait_for_event("swept")
        place.check()
        stored = {digest for _, _, digest in place.rows()}
        lost = {user: digests for user, digests in uploads.acknowledged.items() if not set(digests) <= stored}
        assert lost == {}, "what was acknowledged was lost"
        for user in uploads.acknowledged:
            assert sha256(_get(server.port, user).body).hexdigest() in stored
    print(f"files without a row after each kill: {killed_with}")


# -- several writers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "workers"), [(SERVE, 1), (HYPERCORN, 2)], ids=["serve", "hypercorn-2"])
def test_several_writers_at_once_do_not_harm_each_other(mysql: Place, command: list[str], workers: int) -> None:
    variables = mysql.variables | {"SLUICE_KEEP_VERSIONS": "100"}
    with running(mysql.folder, command, workers=workers, **variables) as server:
        _check_that_each_writes_a_whole_version(server.port)
        _check_that_of_one_condition_one_writes(server.port, "If-None-Match", "*")
        tag = _put(server.port, "If-Match", b"old").fields["etag"]
        _check_that_of_one_condition_one_writes(server.port, "If-Match", tag)
        _check_that_new_users_who_come_at_once_are_all_served(server.port)
        mysql.check()


_BODIES = [b"%d" % number * 100_000 for number in range(8)]


def _check_that_each_writes_a_whole_version(port: int) -> None:
    with ThreadPoolExecutor(len(_BODIES)) as clients:
        answers = list(clients.map(lambda body: _put(port, "ada", body), _BODIES))
    assert Counter(answer.status for answer in answers) == {201: 1, 200: len(_BODIES) - 1}
    assert _get(port, "ada").body in _BODIES
    got = [_get(port, f"ada?version={number}").body for number in range(1, len(_BODIES) + 1)]
    assert sorted(got) == sorted(_BODIES)


def _check_that_of_one_condition_one_writes(port: int, condition: str, value: str) -> None:
    with ThreadPoolExecutor(len(_BODIES)) as clients:
        answers = list(clients.map(lambda body: _put(port, condition, body, {condition: value}), _BODIES))
    winners = [body for body, answer in zip(_BODIES, answers, strict=True) if answer.status in {200, 201}]
    assert Counter(answer.status for answer in answers)[412] == len(_BODIES) - 1
    assert [_get(port, condition).body] == winners


def _check_that_new_users_who_come_at_once_are_all_served(port: int) -> None:
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda number: _put(port, f"user-{number}", b"%d" % number), range(120)))
    assert Counter(answer.status for answer in answers) == {201: 120}


def test_who_reads_a_version_that_is_replaced_and_removed_gets_it_whole(embedded: Place) -> None:
    old = random.Random(3).randbytes(8 * _MIB)
    with running(embedded.folder, SLUICE_KEEP_VERSIONS="1") as server, RawClient(server.port) as client:
        assert _put(server.port, "ada", old).status == 201
        client.get("/api/report/ada")
        size = int(client.read_head().fields["content-length"])
        assert _put(server.port, "ada", b"new").status == 200
        wait_until(lambda: len(embedded.files()) == 1, "the old file is removed")
        assert _get(server.port, "ada").body == b"new"
        assert client.read(size) == old
        embedded.check()
