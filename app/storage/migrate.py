"""Migrations: the schema is brought up to date by Alembic, one instance at a time.

Only ``python -m app migrate`` imports this, for Alembic and SQLAlchemy take longer to load than all the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import alembic.command
import alembic.config
import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from app.errors import StartError
from app.settings import DatabaseSettings
from app.storage.mysql_connection import tls_context
from app.storage.schema import HEAD, VERSION_TABLE

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_SECONDS = 120
_LOCKED = f"another instance has been migrating the database for {_LOCK_SECONDS} s"
_CONNECT_SECONDS = 5


def migrate(settings: DatabaseSettings) -> str:
    """Brings the database to `HEAD` and returns that. Blocking; safe to repeat, safe to race.

    *Errors*: StartError where the database cannot be used, or another instance holds the lock for too long.
    """
    try:
        if settings.host is None:
            _migrate_sqlite(settings.path)
        else:
            _migrate_mysql(settings)
    except CommandError as error:
        # The only one that can happen: the revision found is none of ours.
        raise StartError(f"the database's schema is newer than this program: {_words(error)}") from error
    except DBAPIError as error:
        raise StartError(f"the database cannot be migrated: {_words(error.orig or error)}") from error
    except OSError as error:
        raise StartError(f"the database cannot be migrated: {error}") from error
    return HEAD


def _migrate_sqlite(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), poolclass=NullPool)
    # The lock goes with the process, however that ends.
    with path.with_suffix(".migrate-lock").open("w") as lock:
        _lock_file(lock)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL").close()
            connection.commit()
            _upgrade(connection)


def _lock_file(lock: IO[str]) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StartError(_LOCKED) from None
            time.sleep(0.05)


def _migrate_mysql(settings: DatabaseSettings) -> None:
    tls = tls_context(settings)
    url = sa.URL.create(
        "mysql+pymysql",
        username=settings.user,
        host=settings.host,
        port=settings.port,
        database=settings.name,
        query={"charset": "utf8mb4"},
    )
    # The driver would encode a text as Latin-1.
    arguments: dict[str, Any] = {
        "password": settings.password.encode(),
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _CONNECT_SECONDS,
    }
    if tls is not None:
        arguments["ssl"] = tls
    engine = sa.create_engine(url, poolclass=NullPool, connect_args=arguments)
    with engine.connect() as connection:
        # What answered is a server; from here on it may take its time, for the lock and for large tables.
        cast("Any", connection.connection.driver_connection)._read_timeout = None
        with _mysql_lock(connection, settings.name):
            _upgrade(connection)


@contextmanager
def _mysql_lock(connection: sa.Connection, database: str) -> Generator[None]:
    """A lock of the server's, which goes with the connection. Its name is the server's too, and of 64 characters."""
    name = "sluice-" + hashlib.sha256(database.encode()).hexdigest()[:32]
    taken = connection.execute(sa.text("SELECT GET_LOCK(:name, :seconds)"), {"name": name, "seconds": _LOCK_SECONDS})
    if taken.scalar() != 1:
        raise StartError(_LOCKED)
    try:
        yield
    finally:
        connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), {"name": name})


def _upgrade(connection: sa.Connection) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    alembic.command.upgrade(config, "head")
    connection.commit()


def _words(error: BaseException) -> str:
    return ": ".join(str(arg) for arg in error.args) or type(error).__name__
