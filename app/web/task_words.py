"""What the tree of tasks is told in: which functions of the rooms stand for what, and what one waits on in them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pkgutil import resolve_name
from types import FrameType
from typing import Any

import trio

from app.telemetry.nodes import Named
from app.telemetry.vocabulary import Naming, Vocabulary, code_of
from app.web.boundary import Boundary

type Variables = Mapping[str, Any]


def vocabulary() -> Vocabulary:
    """Of a server."""
    return Vocabulary(
        {resolve_name(function): naming for function, naming in _NAMES.items()},
        {resolve_name(function): word for word, functions in _WAITS.items() for function in functions},
        tuple(resolve_name(function) for function in _HOISTED),
    )


def request_of(frame: FrameType) -> Named | None:
    """The request that is served in ``frame``, if it is the outermost of that. In any thread."""
    exchange = frame.f_locals.get("exchange") if frame.f_code is _SERVES else None
    return None if exchange is None else Named("request", exchange.title, exchange.request.id)


def _connection(variables: Variables) -> Named | None:
    if (connection := variables.get("self")) is None:
        return None
    age = trio.current_time() - connection.began
    return Named("connection", connection.title, age=age, deadline=connection.seconds_left)


def _request(variables: Variables) -> Named | None:
    if (exchange := variables.get("exchange")) is None:
        return None
    request = exchange.request
    return Named("request", exchange.title, request.id, exchange.age, request.seconds_left)


def _stage(variables: Variables) -> Named | None:
    return None if (stage := variables.get("stage")) is None else Named("stage", _stage_name(stage))


def _stage_name(stage: Any) -> str:
    """What it transforms with, or the function that it is."""
    function = stage.func if isinstance(stage, partial) else stage
    name: str = getattr(function, "__name__", type(function).__name__).strip("_")
    if name == "pour":
        return "source"
    chain: Any = stage.args[0] if isinstance(stage, partial) and stage.args else ()
    steps = [type(one).__name__.strip("_") for one in chain] if type(chain) in {list, tuple} else []
    return f"{' | '.join(steps)} {name.replace('_', ' ')}".strip()


def _job(variables: Variables) -> Named | None:
    if (job := variables.get("job")) is None:
        return None
    return Named("job", f"{job.task} {job.id}", age=time.time() - job.created)


def _worker(variables: Variables) -> Named | None:
    if (worker := variables.get("worker")) is None:
        return None
    name = "worker" if worker.pid is None else f"worker {worker.pid}"
    if not worker.runs:
        return Named("process", name, waits_on="work" if worker.ready else "process")
    run = worker.runs[0]
    return Named("process", f"{name} at {run.call.task}", age=trio.current_time() - run.began, waits_on="process")


def _query(variables: Variables) -> Named | None:
    """The statement, with marks in the place of its parameters."""
    return None if (sql := variables.get("sql")) is None else Named("query", " ".join(sql.split()), waits_on="query")


def _source(variables: Variables) -> Named | None:
    return None if (source := variables.get("self")) is None else Named("upstream", source.name)


_SERVES = code_of(Boundary.__call__)
_NAMES: dict[str, Naming] = {
    "app.wire.hypercorn.client_connection:ClientConnection.run": _connection,
    "app.web.boundary:Boundary.__call__": _request,
    "app.flow.pipelines:_Run._run": _stage,
    "app.jobs.runs:Runs._run_new": _job,
    "app.jobs.runs:Runs._run_again": _job,
    "app.compute.local:LocalEngine._have_work": _worker,
    "app.storage.mysql_connection:MysqlConnection.fetch": _query,
    "app.storage.mysql_connection:MysqlConnection.execute": _query,
    "app.storage.mysql_connection:MysqlConnection.open_cursor": _query,
    "app.storage.sqlite:_Connection.fetch": _query,
    "app.storage.sqlite:_Connection.execute": _query,
    "app.storage.sqlite:_Connection.open_cursor": _query,
    "app.aggregate.source:Source.ask": _source,
}
_WAITS: dict[str, list[str]] = {
    "channel full": ["app.flow.channels:Writer.send"],
    "channel empty": ["app.flow.channels:Reader.__anext__"],
    "limiter": [
        "trio:CapacityLimiter.acquire_on_behalf_of",
        "app.aggregate.hosts:Hosts.permit",
        "app.live.hub:Hub.wait_for_room",
    ],
    "pool": ["app.storage.mysql:MysqlDatabase._lend", "app.storage.sqlite:_Connections.lend"],
    "query": [
        "app.storage.mysql_connection:MysqlConnection.fetch",
        "app.storage.mysql_connection:MysqlConnection.execute",
        "app.storage.mysql_connection:MysqlConnection.open_cursor",
        "app.storage.mysql_connection:MysqlConnection.next_batch",
        "app.storage.mysql_connection:connect",
        "app.storage.lookup:Lookup.get",
        "app.storage.sqlite:_Connection.call",
    ],
    "process": [
        "app.compute.run:Run.result",
        "app.compute.run:Run.changed",
        "app.compute.run:Submission.__aexit__",
        "app.flow.processes:ProcessPool.run",
    ],
    "peer": [
        "app.wire.connection:Connection._next_head",
        "app.wire.exchange:Exchange.receive",
        "app.wire.exchange:Exchange._guarded",
        "app.wire.transport:PlainTransport.receive",
        "app.wire.transport:PlainTransport.send",
        "app.wire.transport:TlsTransport.receive",
        "app.wire.transport:TlsTransport.send",
        "app.wire.hypercorn.client_connection:ClientConnection._read_some",
        "app.wire.hypercorn.client_connection:ClientConnection._write",
        "app.wire.hypercorn.applications:Mailbox.receive",
        "app.wire.hypercorn.http2:_Buffer.push",
    ],
    "upstream": ["app.aggregate.upstream:Upstream.call", "app.aggregate.flight:Flight.settling"],
    "events": ["app.live.topic:Subscriber.take"],
    "connections": ["app.wire.readiness:Readiness.run"],
}
_HOISTED = (
    "app.web.lifespan:Server._live",
    "app.wire.hypercorn.serving:serve_until_told",
)
