"""What several rooms' tests need."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.flow.threads import ThreadPool
from app.settings import DatabaseSettings
from app.storage.database import Database
from app.storage.migrate import migrate
from app.storage.mysql import open_mysql
from app.storage.sqlite import open_sqlite
from tests.mariadb import MariaDb, running_mariadb


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    """A private MariaDB for the whole run. A test that stops it starts it again."""
    with running_mariadb() as server:
        yield server


@pytest.fixture
def mysql_settings(mariadb: MariaDb) -> DatabaseSettings:
    """A new, empty database on it."""
    return mariadb.create_database()


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> DatabaseSettings:
    """An embedded database that does not exist yet."""
    return DatabaseSettings(None, 3306, "", "", "", None, 20, tmp_path / "sluice.db")


@pytest.fixture(params=["sqlite", "mysql"])
def database_settings(request: pytest.FixtureRequest) -> DatabaseSettings:
    """Each kind of database in turn, not yet migrated."""
    return request.getfixturevalue(f"{request.param}_settings")


@asynccontextmanager
async def open_migrated(settings: DatabaseSettings) -> AsyncGenerator[Database]:
    """The database of ``settings``, brought to the current schema."""
    migrate(settings)
    opening = open_mysql(settings) if settings.host else open_sqlite(settings.path, ThreadPool("database", 8))
    async with opening as database:
        yield database


@asynccontextmanager
async def open_adopted(settings: DatabaseSettings, columns: str, options: str = "") -> AsyncGenerator[Database]:
    """A database whose table of reports somebody else has made."""
    async with open_migrated(settings) as database:
        for table in ("user_reports", "report_versions", "sluice_schema"):
            await database.execute(f"DROP TABLE {table}")
        await database.execute(f"CREATE TABLE user_reports ({columns}) {options}")
    async with open_migrated(settings) as database:
        yield database


@pytest.fixture
async def database(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """Each kind of database in turn, migrated and open."""
    async with open_migrated(database_settings) as opened:
        yield opened
