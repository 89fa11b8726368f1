"""The one place that knows all rooms: opens them in order, hands each what it needs, closes them in reverse."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from app.aggregate.measures import aggregate_measures
from app.aggregate.routes import aggregate_route
from app.aggregate.service import Aggregate, open_aggregate
from app.compute.bodies import Bodies
from app.compute.engine import Call
from app.compute.local import open_local_engine
from app.compute.measures import engine_measures
from app.compute.payload import Inline
from app.compute.registry import load_tasks
from app.compute.routes import compute_blueprint, process_route
from app.compute.service import Compute
from app.errors import StartError
from app.flow.drain import DrainGate
from app.flow.processes import preload
from app.flow.threads import ThreadPool
from app.jobs.measures import jobs_measures
from app.jobs.routes import jobs_blueprint
from app.jobs.service import Jobs, open_jobs
from app.live.measures import live_measures
from app.live.origins import Origins
from app.live.routes import live_blueprint
from app.live.service import Live, open_live
from app.reports.catalogue import open_catalogue
from app.reports.list_route import list_route
from app.reports.listing import Listing
from app.reports.routes import report_route, reports_blueprint
from app.reports.service import Reports
from app.settings import Settings, TraceSettings
from app.storage.blobs import LocalBlobs, open_blobs
from app.storage.database import Database
from app.storage.idempotency import IdempotencyKeys
from app.storage.instances import open_instances
from app.storage.measures import database_measures
from app.storage.mysql import open_mysql
from app.storage.schema import check_schema
from app.storage.sqlite import open_sqlite
from app.telemetry.lag import LoopLag
from app.telemetry.metrics import Source, lag_measures, metrics, requests_measures
from app.telemetry.siblings import open_siblings
from app.telemetry.watchdog import watching
from app.transforms.events import on_each_record
from app.transforms.measures import transforms_measures
from app.transforms.routes import transforming, transforms_blueprint
from app.transforms.service import Transforms, open_transforms
from app.web.application import build_application
from app.web.health import health_blueprint
from app.web.index import index_blueprint
from app.web.later import Later
from app.web.lifespan import Server
from app.web.metrics import metrics_route
from app.web.published import PublishedKeys
from app.web.task_words import request_of, vocabulary
from app.web.tasks import tasks_blueprint
from app.wire.asgi import AsgiApp

if TYPE_CHECKING:
    from app.telemetry.traces import Traces

# What the production command's own script loads, which Python has each process run again.
_MAIN = ("hypercorn.__main__",)
# How long an answer is kept under its idempotency key: longer than any job that it may name.
_KEYS_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Stores:
    """Where reports are kept, open."""

    database: Database
    blobs: LocalBlobs
    reports: Reports


@dataclass(frozen=True)
class House:
    """The rooms of a server, open."""

    stores: Stores
    transforms: Transforms
    compute: Compute
    aggregate: Aggregate
    jobs: Jobs[Call]
    keys: IdempotencyKeys
    live: Live


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncGenerator[Stores]:
    """All that a command needs which is no server.

    *Errors*: StartError, maybe within a group.
    """
    # Look-ups of the database's name run in Trio's own threads, of which there are 40 unless somebody says otherwise.
    trio.to_thread.current_default_thread_limiter().total_tokens = settings.threads.io
    files = ThreadPool("files", settings.threads.io)
    with closing(await open_blobs(settings.reports.directory, files)) as blobs:
        async with open_database(settings) as database:
            await check_schema(database)
            async with open_catalogue(database, settings.reports.keep_versions) as catalogue:
                yield Stores(database, blobs, Reports(catalogue, blobs))


@asynccontextmanager
async def open_house(settings: Settings, gate: DrainGate) -> AsyncGenerator[House]:
    """Opens the rooms, whose work passes ``gate``; what has been opened is closed in reverse, also when a later one
    fails.

    *Errors*: StartError, maybe within a group.
    """
    tasks = load_tasks(settings.tasks.modules)
    preload("app.compute.preload", "app.transforms.registry", *_MAIN)
    async with (
        open_stores(settings) as stores,
        open_transforms(settings) as transforms,
        open_aggregate(settings.aggregate, look_ups=settings.threads.io) as aggregate,
        open_local_engine(settings.compute, settings.tasks.modules) as engine,
        open_instances(stores.database) as instances,
        open_live(stores.database, gate, settings.live, on_each_record) as live,
    ):
        keys = IdempotencyKeys(stores.database, instances, _KEYS_SECONDS)
        threads = ThreadPool("results", settings.threads.io)
        at_once = engine.statistics().workers + engine.statistics().most_waiting
        bodies = Bodies(settings.server.max_json, settings.compute.max_body, at_once * settings.compute.max_body)
        compute = Compute(engine, tasks, bodies, stores.reports.open)
        async with open_jobs(
            stores.database,
            engine,
            instances,
            gate,
            settings.jobs,
            threads,
            revive=_call,
            grace=settings.compute.grace,
        ) as jobs:
            yield House(stores, transforms, compute, aggregate, jobs, keys, live)


def _call(task: str, arguments: bytes) -> Call:
    """The call of a job that is run again."""
    return Call(task, Inline(arguments))


def open_database(settings: Settings) -> AbstractAsyncContextManager[Database]:
    """MySQL where one is named, else the embedded database."""
    if settings.database.host is not None:
        return open_mysql(settings.database)
    return open_sqlite(settings.database.path, ThreadPool("database", settings.threads.io))


@asynccontextmanager
async def open_application(settings: Settings, gate: DrainGate) -> AsyncGenerator[AsgiApp]:
    """The HTTP application over an open house."""
    lag = LoopLag()
    async with (
        _open_traces(settings.traces),
        open_house(settings, gate) as house,
        metrics.reading(*_sources(house, gate, lag)),
        open_siblings(metrics.snapshot) as siblings,
        trio.open_nursery() as nursery,
    ):
        checks = {
            "compute": house.compute.engine.wait_ready,
            "database": house.stores.database.ping,
            "reports": house.stores.blobs.probe,
        }
        blueprints = [
            index_blueprint(),
            health_blueprint(checks, gate),
            tasks_blueprint(vocabulary()),
            reports_blueprint(house.stores.reports),
            transforms_blueprint(house.transforms),
            compute_blueprint(house.compute),
            jobs_blueprint(house.jobs, gate),
            live_blueprint(
                house.live,
                PublishedKeys(house.keys),
                Origins(settings.live.origins),
                settings.server.request_deadline,
            ),
        ]
        short_routes = [
            report_route(house.stores.reports, transforming(house.transforms)),
            list_route(Listing(house.stores.database)),
            aggregate_route(house.aggregate, settings.server.request_deadline),
            metrics_route(siblings.collect, siblings.threads),
        ]
        posts = [process_route(house.compute, Later(house.jobs, house.keys, settings.server.request_deadline))]
        # In the background: a large folder takes its time, and nobody has to wait for that.
        nursery.start_soon(house.stores.reports.sweep)
        nursery.start_soon(lag.run)
        with watching(lag, settings.telemetry.stall_warn, request_of):
            yield build_application(blueprints, short_routes, settings.server, posts)
        nursery.cancel_scope.cancel()


def _sources(house: House, gate: DrainGate, lag: LoopLag) -> list[Source]:
    """Who counts what is told by ``/metrics``, beside the requests themselves."""
    return [
        partial(lag_measures, lag),
        partial(requests_measures, gate, lambda: house.jobs.count),
        partial(database_measures, house.stores.database),
        partial(engine_measures, house.compute.engine),
        partial(jobs_measures, house.jobs),
        partial(transforms_measures, house.transforms),
        partial(aggregate_measures, house.aggregate),
        partial(live_measures, house.live),
    ]


@asynccontextmanager
async def _open_traces(settings: TraceSettings) -> AsyncGenerator[Traces | None]:
    """The room that sends spans, around all whose spans it sends. *Errors*: StartError."""
    if not settings.on:
        yield None
        return
    try:
        from app.telemetry.traces import open_traces  # noqa: PLC0415 - it takes its time, and has its own requirements
    except ImportError as error:
        needed = (
            "needs opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http (pip install 'sluice-server[otel]')"
        )
        raise StartError(f"OTEL_EXPORTER_OTLP_ENDPOINT: {needed}: {error}") from error
    async with open_traces(settings) as traces:
        yield traces


def build_server(settings: Settings, gate: DrainGate) -> Server:
    """The ASGI application, its rooms still closed."""
    return Server(partial(open_application, settings, gate), gate, settings.server)
