"""How long a task computes for a client that is gone."""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.compute import PROCESS, call, result_of
from tests.bench.cpu_time import clocks, free_since, sample, wait_calm
from tests.bench.ground import Ground
from tests.bench.own import GRACE_MS
from tests.bench.peer import Server
from tests.bench.targets import Target
from tests.bench.work import Column, Measurement, Work, wrong_answer

_TASKS = {"checks_in": "bench-checks-in", "spins": "bench-spins"}  # of peers/tasks.py, by the figure's name
_COMPUTES_CPU = 0.05  # seconds of it that show which process computes
_SAMPLE_SECONDS = 0.002
_REST_SECONDS = 0.3  # without work, after which a process is taken for free
_PATIENCE_SECONDS = 20
_TRIVIAL = call("sum-sqrt", n=1)


@dataclass(frozen=True, kw_only=True)
class Leave(Work[Server]):
    """A client posts a call, leaves while it is computed, and the process that computes it is watched until it rests.

    What the server does meanwhile, such as starting a process in the place of one that it has killed, does not count.
    """

    times: int = 5

    def lasts(self, seconds: int, *, quick: bool) -> str:
        return f"{self._times(quick=quick)} times each"

    def measure(self, peer: Server, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        figures: dict[str, float] = {}
        for name, task in _TASKS.items():
            found = [leave(peer, task) for _ in range(self._times(quick=quick))]
            figures |= {f"{name}_ms": statistics.median(found), f"{name}_worst_ms": max(found)}
            figures |= {f"{name}_ms_{number}": value for number, value in enumerate(found, 1)}
        return Measurement(figures, wrong_answer(peer, PROCESS, result_of(0).right, _TRIVIAL))

    def _times(self, *, quick: bool) -> int:
        return 1 if quick else self.times


def leave(server: Server, task: str) -> float:
    """Milliseconds from the disconnect until nothing is computed for it. *Errors*: RuntimeError."""
    wait_calm(server.pid, _PATIENCE_SECONDS)
    before, body = clocks(server.pid), call(task)
    head = f"POST {PROCESS} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), _PATIENCE_SECONDS) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        pid = _computing(server, connection, before)
        samples = [sample(pid)]
        left = time.perf_counter()
    while (free := free_since(samples)) > samples[-1].at - _REST_SECONDS:
        if samples[-1].at > left + _PATIENCE_SECONDS:
            raise RuntimeError(f"{task} was still computed {_PATIENCE_SECONDS} s after its client had gone")
        time.sleep(_SAMPLE_SECONDS)
        samples.append(sample(pid))
    return (free - left) * 1000


def _computing(server: Server, connection: socket.socket, before: Mapping[int, float]) -> int:
    """The process that computes, as its CPU time shows, which was ``before``."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for pid, cpu in clocks(server.pid).items():
            if cpu - before.get(pid, cpu) > _COMPUTES_CPU:
                return pid
        if select.select([connection], [], [], 0.01)[0]:
            raise RuntimeError(f"answered, not computed: {connection.recv(1000)!r}")
    raise RuntimeError("the server computes nothing")


COMPUTE_LEAVE = Leave(
    name="compute-leave",
    title="how long a task computes after its client has left",
    peers=("sluice-compute",),
    reference="sluice-compute",
    rounds=3,
    columns=(
        Column("checks_in_ms", "checks in: ms", ",.1f", spread=True),
        Column("checks_in_worst_ms", "at most", ",.1f"),
        Column("spins_ms", "does not: ms", ",.1f", spread=True),
        Column("spins_worst_ms", "at most", ",.1f"),
    ),
    targets=(
        Target(
            "ms until a task that checks in is gone, at most",
            "sluice-compute",
            "checks_in_worst_ms",
            at_most=50,
            worst=True,
        ),
        Target(
            "ms until a task that does not is gone, at most",
            "sluice-compute",
            "spins_worst_ms",
            at_most=GRACE_MS + 100,
            worst=True,
        ),
    ),
)
