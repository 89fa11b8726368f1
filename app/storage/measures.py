"""What the database tells to those who measure."""

from __future__ import annotations

from collections.abc import Iterable

from app.storage.database import Database
from app.telemetry import families as f
from app.telemetry.metrics import Reading


def database_measures(database: Database) -> Iterable[Reading]:
    state = database.statistics()
    yield f.DB_CONNECTIONS, ("used",), state.open - state.idle
    yield f.DB_CONNECTIONS, ("idle",), state.idle
    yield f.DB_CONNECTIONS_MAX, (), state.size
    yield f.DB_WAITING, (), state.waiting
    yield f.DB_WAIT, (), state.times.waits
    yield f.DB_QUERY, (), state.times.queries
    yield f.DB_KILLED, (), state.killed
