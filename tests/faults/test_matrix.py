"""The cancellation matrix: protocols × situations × endings, over real sockets, under the real command.

In each cell the route is cancelled, soon where its client has left; what it held is released; the log says the cause.

    WRITE_MATRIX=1 .venv/bin/pytest tests/faults/test_matrix.py

writes what was measured to ``tests/bench/results/cancellation.md`` and ``cancellation.json``.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.bench.record import RESULTS
from tests.faults.matrix_clients import PROTOCOLS, Client, Ports
from tests.faults.matrix_places import PROCESSES, SLEEP, THREADS
from tests.faults.traffic import ask, wait_until
from tests.mariadb import MariaDb, environment
from tests.processes import HYPERCORN, SluiceProcess, running

SITUATIONS = {
    "before": "before the route answers",
    "upload": "in mid-upload",
    "download": "in mid-download, stalled",
    "sql": "waiting for SQL",
    "thread": "waiting for a thread",
    "process": "waiting for a process",
}
ENDINGS = {
    "closes": "client closes",
    "resets": "client resets",
    "resets_stream": "client resets the stream",
    "deadline": "deadline",
    "shutdown": "shutdown",
}
OUTCOMES = {"deadline": "deadline", "shutdown": "shutdown"}

CONNECTIONS = 8
# Half of those that want one of a few get one, the others wait for it.
_PLACES = {"sql": CONNECTIONS, "thread": THREADS, "process": PROCESSES}
_MEASURED = 20
_AT_ONCE = {"sql": 2 * CONNECTIONS, "thread": 2 * THREADS, "process": 3 * PROCESSES}
_LIMIT_MS = 50
# Of what is ended by the clock, all at once: many routes want the processor in the same moment.
_LATE_MS = 1000
_DEADLINE = 0.3
_DRAIN_TIMEOUT = 0.5

type Key = tuple[str, str, str]


@dataclass
class Cell:
    """names: the requests'. ms: from the ending to the end of the route, with all that it held; for a deadline they
    count from the deadline, for a shutdown from the cut. held: what was not given back. outcomes: what the log says.
    """

    names: list[str] = field(default_factory=list[str])
    ms: list[float] = field(default_factory=list[float])
    held: dict[str, int] = field(default_factory=dict[str, int])
    outcomes: list[str | None] = field(default_factory=list[str | None])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@dataclass
class Matrix:
    """What was measured. descriptors: of the worker, before and after. behind: requests that came behind a victim
    whose client had left, and were served nevertheless. exit_seconds: of the server, after the cut."""

    cells: dict[Key, Cell]
    descriptors: tuple[int, int] = (0, 0)
    behind: int = 0
    exit_seconds: float = 0.0
    complaints: list[Any] = field(default_factory=list[Any])


def exists(protocol: str, ending: str) -> bool:
    """Only HTTP/2 has streams to reset."""
    return ending != "resets_stream" or protocol == "HTTP/2"


CELLS: list[Key] = [
    (protocol, situation, ending)
    for protocol in PROTOCOLS
    for situation in SITUATIONS
    for ending in ENDINGS
    if exists(protocol, ending)
]


# -- measuring ---------------------------------------------------------------------------------------------------------


class Notes:
    """What the routes write down, as it comes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._part = b""
        self._seen: dict[tuple[str, str], float] = {}

    def close(self) -> None:
        self._file.close()

    def at(self, event: str, name: str, seconds: float = 10) -> float:
        """When it happened."""
        until = time.monotonic() + seconds
        while (event, name) not in self._seen:
            assert time.monotonic() < until, f"not within {seconds:g} s: {name} {event}"
            if not self._read():
                time.sleep(0.001)
        return self._seen[event, name]

    def _read(self) -> bool:
        *lines, self._part = (self._part + self._file.read()).split(b"\n")
        for line in lines:
            note = json.loads(line)
            self._seen[note["event"], note["name"]] = note["at"]
        return bool(lines)


class Bench:
    """A running server, and what is measured on it."""

    def __init__(self, server: SluiceProcess, folder: Path, ports: Ports, notes: Notes, mariadb: MariaDb) -> None:
        self._server = server
        self._folder = folder
        self._ports = ports
        self._notes = notes
        self._mariadb = mariadb
        self._worker = server.workers()[0]
        self._count = 0

    @contextmanager
    def victims(self, key: Key, cell: Cell, count: int) -> Generator[list[Client]]:
        """``count`` clients whose requests are where they shall be ended; those that are first in line first."""
        protocol, situation, ending = key
        deadline = _DEADLINE if ending == "deadline" else None
        calls = self._calls()
        with ExitStack() as stack:
            clients: list[Client] = []
            for number in range(count):
                self._count += 1
                name = f"m{self._count}"
                cell.names.append(name)
                client = PROTOCOLS[protocol](self._ports, situation, name, odd=number % 2 == 1, deadline=deadline)
                stack.callback(client.close)
                clients.append(client)
                if deadline is None and number < _PLACES.get(situation, 0):
                    self._notes.at("there", name)
            if deadline is None:
                for client in clients:
                    self._notes.at("there", client.name)
                if ending != "shutdown":
                    self._wait_until_held(situation, count, calls)
            for client in clients:
                client.once_there()
            yield clients

    def measure(self, key: Key, cell: Cell) -> None:
        """One cell that the client ends."""
        _, situation, ending = key
        while (left := _MEASURED - len(cell.ms)) > 0:
            with self.victims(key, cell, min(left, _AT_ONCE.get(situation, left))) as clients:
                for client in reversed(clients):  # whoever waits for a place first: so what is freed stays free
                    began = time.monotonic()
                    getattr(client, ending)()
                    cell.ms.append((self._notes.at("left", client.name) - began) * 1000)
        cell.held = self.held()

    def measure_deadlines(self, cells: dict[Key, Cell]) -> None:
        """Two of each situation at once."""
        with ExitStack() as stack:
            clients = {key: stack.enter_context(self.victims(key, cell, 2)) for key, cell in cells.items()}
            for key, some in clients.items():
                cells[key].ms = [(self._notes.at("left", one.name) - one.asked - _DEADLINE) * 1000 for one in some]
        held = self.held()
        for cell in cells.values():
            cell.held = held

    def measure_shutdown(self, cells: dict[Key, Cell]) -> float:
        """Two of each situation at once; the seconds that the server took to end after the cut."""
        with ExitStack() as stack:
            clients = {key: stack.enter_context(self.victims(key, cell, 2)) for key, cell in cells.items()}
            began = time.monotonic() - time.time()
            self._server.signal(signal.SIGTERM)
            (line,) = self._server.wait_for_event("shutting down")
            cut = datetime.fromisoformat(line["timestamp"]).timestamp() + began + _DRAIN_TIMEOUT
            for key, some in clients.items():
                cells[key].ms = [(self._notes.at("left", one.name) - cut) * 1000 for one in some]
            assert self._server.wait() == 0
            took = time.monotonic() - cut
        called = [int(path.name.rpartition("-")[2]) for path in self._folder.glob("call-*")]
        left = {"queries": self._queries(), "processes": sum(Path(f"/proc/{pid}").exists() for pid in called)}
        held = {name: count for name, count in left.items() if count}
        for cell in cells.values():
            cell.held = held
        return took

    def held(self) -> dict[str, int]:
        """What is not given back, soon; nothing, if all goes well."""
        with suppress(AssertionError):
            wait_until(lambda: not self._held(), "everything is given back", 2)
        return self._held()

    def descriptors(self, most: int | None = None) -> int:
        """Of the worker, but for idle connections to the database, of which there may be more or fewer.

        most: what there should be, soon: the last answers of a connection may take seconds to be read.
        """

        def count() -> int:
            idle = ask(self._ports.cleartext, "/state")[1]["sql"]["idle"]
            time.sleep(0.1)  # until this very connection has ended, too
            return len(list(Path(f"/proc/{self._worker}/fd").iterdir())) - idle

        # Connections end a little later than their requests.
        time.sleep(0.5)
        found = count()
        deadline = time.monotonic() + 5
        while most is not None and found > most and time.monotonic() < deadline:
            found = count()
        return found

    def _held(self) -> dict[str, int]:
        rooms = ask(self._ports.cleartext, "/state")[1]
        sql, thread, process = rooms["sql"], rooms["thread"], rooms["process"]
        held = {
            "connections": sql["open"] - sql["idle"],
            "threads": thread["busy"],
            "processes": process["busy"] + process["idle"],
            "callers": sql["waiting"] + thread["waiting"] + process["waiting"],
            "queries": self._queries(),
        }
        return {name: count for name, count in held.items() if count}

    def _queries(self) -> int:
        return len(self._mariadb.processes(f"{SLEEP}%"))

    def _calls(self) -> int:
        return len(list(self._folder.glob("call-*")))

    def _wait_until_held(self, situation: str, count: int, calls: int) -> None:
        """The routes say that they are there just before they call for what they wait for."""
        if situation not in _PLACES:
            return
        running = min(count, _PLACES[situation])

        def waits() -> bool:
            room = ask(self._ports.cleartext, "/state")[1][situation]
            return room["waiting"] == count - running

        wait_until(waits, f"{count - running} wait")
        if situation == "sql":
            wait_until(lambda: self._queries() == running, f"{running} queries run")
        if situation == "process":
            wait_until(lambda: self._calls() == calls + running, f"{running} processes run")


@pytest.fixture(scope="module")
def matrix(mariadb: MariaDb, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    folder = tmp_path_factory.mktemp("matrix")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority"))
    pem = str(folder / "pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    command = [*HYPERCORN[:-1], "-w", "1", "-b", "127.0.0.1:0", "--insecure-bind", "127.0.0.1:0"]
    command += ["--certfile", pem, "--keyfile", pem, "tests.faults.matrix_app:app"]
    variables = environment(mariadb.create_database(pool=CONNECTIONS)) | {"SLUICE_DRAIN_TIMEOUT": f"{_DRAIN_TIMEOUT}s"}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("SSL_CERT_FILE", str(folder / "authority"))  # for whoever waits until it answers
        # It says that it runs once for each address.
        server = stack.enter_context(running(folder, command, workers=2, **variables))
        secure, cleartext = (int(line["event"].split()[2].rpartition(":")[2]) for line in _running_on(server))
        notes = Notes(folder / "notes")
        stack.callback(notes.close)
        bench = Bench(server, folder, Ports(cleartext, secure, folder / "authority"), notes, mariadb)
        result = Matrix({key: Cell() for key in CELLS})
        _measure(bench, server, result)
    if os.environ.get("WRITE_MATRIX"):
        write(result)
    return result


def _running_on(server: SluiceProcess) -> list[dict[str, Any]]:
    return [line for line in server.log() if line["event"].startswith("Running on ")]


def _measure(bench: Bench, server: SluiceProcess, result: Matrix) -> None:
    for situation in SITUATIONS:  # what is opened once and kept is open then
        with bench.victims(("HTTP/1.1", situation, "closes"), Cell(), 1) as (client,):
            client.closes()
    assert not bench.held()
    before = bench.descriptors()
    for key, cell in result.cells.items():
        if key[2] not in OUTCOMES:
            bench.measure(key, cell)
    result.behind = sum(line["path"] == "/behind" for line in server.events("request"))
    for protocol in PROTOCOLS:
        bench.measure_deadlines({key: result.cells[key] for key in CELLS if (key[0], key[2]) == (protocol, "deadline")})
    result.descriptors = before, bench.descriptors(before)
    result.exit_seconds = bench.measure_shutdown({key: result.cells[key] for key in CELLS if key[2] == "shutdown"})
    outcomes = {line["request_id"]: line["outcome"] for line in server.events("request")}
    for cell in result.cells.values():
        cell.outcomes = [outcomes.get(name) for name in cell.names]
    result.complaints = [line for line in server.log() if "exception" in line or line["level"] != "info"]


# -- what it must show -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", CELLS, ids=" | ".join)
def test_what_is_ended_gives_everything_back_and_the_log_says_why(matrix: Matrix, key: Key) -> None:
    cell = matrix.cells[key]
    assert cell.ms
    assert cell.held == {}
    assert set(cell.outcomes) == {OUTCOMES.get(key[2], "disconnected")}
    assert statistics.median(cell.ms) < (_LATE_MS if key[2] in OUTCOMES else _LIMIT_MS)


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending not in OUTCOMES])
def test_whoever_leaves_is_noticed_in_time(matrix: Matrix, ending: str) -> None:
    measured = [value for key, cell in matrix.cells.items() if key[2] == ending for value in cell.ms]
    assert percentile(measured, 0.99) < _LIMIT_MS


def test_no_descriptor_is_lost(matrix: Matrix) -> None:
    before, after = matrix.descriptors
    assert after <= before


def test_nothing_behind_a_request_whose_client_has_left_is_served(matrix: Matrix) -> None:
    assert matrix.behind == 0


def test_the_end_waits_for_nobody(matrix: Matrix) -> None:
    assert matrix.exit_seconds < 3


def test_the_log_complains_of_nothing(matrix: Matrix) -> None:
    assert matrix.complaints == []


# -- what it leaves ----------------------------------------------------------------------------------------------------


def write(matrix: Matrix) -> None:
    (RESULTS / "cancellation.md").write_text(table(matrix))
    cells = [
        {
            "protocol": protocol,
            "situation": situation,
            "ending": ending,
            "measured": len(cell.ms),
            "p50_ms": round(percentile(cell.ms, 0.5), 2),
            "p99_ms": round(percentile(cell.ms, 0.99), 2),
            "max_ms": round(max(cell.ms), 2),
            "released": cell.held == {},
            "outcomes": sorted(set(map(str, cell.outcomes))),
        }
        for (protocol, situation, ending), cell in matrix.cells.items()
    ]
    record = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "descriptors": dict(zip(("before", "after"), matrix.descriptors, strict=True)),
        "exit_seconds_after_the_cut": round(matrix.exit_seconds, 2),
        "cells": cells,
    }
    (RESULTS / "cancellation.json").write_text(json.dumps(record, indent=1) + "\n")


def table(matrix: Matrix) -> str:
    """In Markdown: a line for each protocol and situation, a column for each ending."""
    lines = [["protocol", "situation", *ENDINGS.values()], ["---", "---", *("---:" for _ in ENDINGS)]]
    for protocol in PROTOCOLS:
        for situation, words in SITUATIONS.items():
            keys = [(protocol, situation, ending) for ending in ENDINGS]
            lines.append([protocol, words, *(_cell(matrix.cells.get(key), key) for key in keys)])
    before, after = matrix.descriptors
    return "\n".join(
        [
            f"Milliseconds until the route has ended and given back what it held: median / 99th percentile / most, of "
            f"{_MEASURED} for each that a client ends, else of 2. A deadline's count from the deadline, a shutdown's "
            f"from the cut, when the drain's time is over. ✓: nothing was held any more (connections, queries on the "
            f"database server, threads, processes, places in line), and the log said `disconnected`, `deadline` or "
            f"`shutdown`. Descriptors of the worker: {before} before, {after} after. The server ended "
            f"{matrix.exit_seconds:.2f} s after the cut.",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            "–: there is no such thing: only HTTP/2 has streams that are reset one by one.",
            "",
        ]
    )


def _cell(cell: Cell | None, key: Key) -> str:
    if cell is None:
        return "–"
    good = cell.held == {} and set(cell.outcomes) == {OUTCOMES.get(key[2], "disconnected")}
    figures = " / ".join(
        f"{value:.1f}" for value in (*(percentile(cell.ms, share) for share in (0.5, 0.99)), max(cell.ms))
    )
    return f"{figures} {'✓' if good else '✗'}"
