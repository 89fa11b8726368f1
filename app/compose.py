"""The one place that knows all rooms: opens them in order, hands each what it needs, closes them in reverse."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from app.flow.drain import DrainGate
from app.flow.threads import ThreadPool
from app.reports.catalogue import open_catalogue
from app.reports.list_route import list_route
from app.reports.listing import Listing
from app.reports.routes import report_route, reports_blueprint
from app.reports.service import Reports
from app.settings import Settings
from app.storage.blobs import LocalBlobs, open_blobs
from app.storage.database import Database
from app.storage.mysql import open_mysql
from app.storage.schema import check_schema
from app.storage.sqlite import open_sqlite
from app.transforms.routes import transforms_blueprint
from app.transforms.service import Transforms, open_transforms
from app.web.application import build_application
from app.web.health import health_blueprint
from app.web.index import index_blueprint
from app.web.lifespan import Server
from app.wire.asgi import AsgiApp


@dataclass(frozen=True)
class House:
    """The rooms, open."""

    database: Database
    blobs: LocalBlobs
    reports: Reports
    transforms: Transforms


@asynccontextmanager
async def open_house(settings: Settings) -> AsyncGenerator[House]:
    """Opens the rooms; what has been opened is closed in reverse, also when a later one fails.

    *Errors*: StartError, maybe within a group.
    """
    # Name look-ups run in Trio's own threads, of which there are 40 unless somebody says otherwise.
    trio.to_thread.current_default_thread_limiter().total_tokens = settings.threads.io
    blobs = await open_blobs(settings.reports.directory, ThreadPool("files", settings.threads.io))
    async with open_database(settings) as database:
        await check_schema(database)
        async with (
            open_catalogue(database, settings.reports.keep_versions) as catalogue,
            open_transforms(settings) as transforms,
        ):
            try:
                yield House(database, blobs, Reports(catalogue, blobs), transforms)
            finally:
                blobs.close()


def open_database(settings: Settings) -> AbstractAsyncContextManager[Database]:
    """MySQL where one is named, else the embedded database."""
    if settings.database.host is not None:
        return open_mysql(settings.database)
    return open_sqlite(settings.database.path, ThreadPool("database", settings.threads.io))


@asynccontextmanager
async def open_application(settings: Settings, gate: DrainGate) -> AsyncGenerator[AsgiApp]:
    """The HTTP application over an open house."""
    async with open_house(settings) as house, trio.open_nursery() as nursery:
        checks = {"database": house.database.ping, "reports": house.blobs.probe}
        blueprints = [
            index_blueprint(),
            health_blueprint(checks, gate),
            reports_blueprint(house.reports),
            transforms_blueprint(house.transforms),
        ]
        short_routes = [report_route(house.reports), list_route(Listing(house.database))]
        # In the background: a large folder takes its time, and nobody has to wait for that.
        nursery.start_soon(house.reports.sweep)
        yield build_application(blueprints, short_routes, settings.server)
        nursery.cancel_scope.cancel()


def build_server(settings: Settings, gate: DrainGate) -> Server:
    """The ASGI application, its rooms still closed."""
    return Server(partial(open_application, settings, gate), gate, settings.server)
