"""Works of computing: sums through the route for tasks, and those who ask for something small beside them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.beside import BESIDE_COLUMNS, BesidePosts
from tests.bench.ground import Ground
from tests.bench.peer import COMPUTE_WORKERS
from tests.bench.targets import Target
from tests.bench.work import Column
from tests.bench.wrk import Expected, Requests, request_columns

PROCESS = "/api/process"

_PEERS = ("express-piscina", "sluice-compute")
_LONG = 100_000_000  # terms of a sum that takes some tenths of a second
_WAITING = 3  # clients for whom there is no worker
_JSON_BYTES, _NUMBERS = 20_000_000, 10_000


def call(task: str, **arguments: Any) -> str:
    """The JSON that has ``task`` run."""
    return json.dumps({"task": task, "args": arguments})


def result_of(value: float) -> Expected:
    """``{"result": value}``, but for the order in which its terms were added."""
    return Expected(len(json.dumps({"result": round(value, 2)})), lambda body: _has_result(body, value))


def _has_result(body: bytes, value: float) -> bool:
    try:
        found = json.loads(body)
    except ValueError:
        return False
    result = found.get("result") if isinstance(found, dict) else None
    return isinstance(result, int | float) and math.isclose(result, value, rel_tol=1e-9)


def numbers(ground: Ground) -> Path:
    """A file of 20 MB, the call of a task that is given many numbers and does little with them."""
    made = ground.folder / "numbers.json"
    if not made.exists():
        chance = random.Random(20260101)
        before, after = call("describe", numbers=[]).encode().split(b"[]")
        block = ", ".join(str(round(chance.gauss(0, 1000), chance.randrange(1, 9))) for _ in range(_NUMBERS)).encode()
        blocks = (_JSON_BYTES - len(before + after)) // (len(block) + 2)
        made.write_bytes(before + b"[" + b", ".join([block] * blocks) + b"]" + after)
    return made


def long_sum(ground: Ground) -> Path:
    """A file: the call of a sum that takes a worker for a while."""
    made = ground.folder / "long-sum.json"
    made.write_text(call("sum-sqrt", n=_LONG))
    return made


@dataclass(frozen=True, kw_only=True)
class BesideCalls(BesidePosts):
    """Each connection of the burden posts the same call."""

    made: Callable[[Ground], Path]

    def posted(self, ground: Ground, *, quick: bool) -> tuple[str, Path, str]:
        return PROCESS, self.made(ground), "application/json"


def _sums(name: str, title: str, connections: int, posted: str, value: float) -> Requests:
    return Requests(
        name=name,
        title=f"{title}, {connections} connections; workers that compute: {COMPUTE_WORKERS} each",
        path=PROCESS,
        posted=posted,
        answer=lambda _: result_of(value),
        connections=connections,
        peers=_PEERS,
        reference="express-piscina",
        columns=request_columns("Piscina"),
        targets=(
            Target("requests/s ÷ Piscina's", "sluice-compute", "requests_per_second", to="express-piscina", at_least=1),
        ),
    )


def _beside(name: str, title: str, connections: int, made: Callable[[Ground], Path]) -> BesideCalls:
    return BesideCalls(
        name=name,
        title=f"{title}, and 10 connections that ask for /healthz beside them",
        made=made,
        connections=connections,
        quick_connections=connections,
        peers=_PEERS,
        reference="express-piscina",
        rounds=3,
        factor=3,
        columns=(*BESIDE_COLUMNS, Column("burden_answers_per_second", "answers/s of the burden", ",.1f")),
        targets=(
            Target("p99 of /healthz ÷ that without", "sluice-compute", "p99_ratio", at_most=2),
            Target("p99 of /healthz ÷ that without", "express-piscina", "p99_ratio"),
        ),
    )


COMPUTE_SUM = _sums("compute-sum", "the sum of √i for i < 10⁷", 8, call("sum-sqrt"), 21081849486.44)
COMPUTE_TRIVIAL = _sums(
    "compute-trivial", "the sum of √i for i < 10", 32, call("sum-sqrt", n=10), sum(map(math.sqrt, range(10)))
)
BESIDE_COMPUTE = _beside(
    "beside-compute",
    "connections that keep every worker computing, and some more that wait for one",
    COMPUTE_WORKERS + _WAITING,
    long_sum,
)
BESIDE_JSON = _beside("beside-json", "4 connections that post 20 MB of JSON each", 4, numbers)
