"""Migrations: safe to repeat, to race and to cut off; the original's table is adopted with its rows."""

from __future__ import annotations

import fcntl
import json
import socket
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

import app.storage.migrate
from app.errors import BadUserId, StartError
from app.reports.catalogue import Replaced, open_catalogue
from app.reports.entries import Entry
from app.settings import DatabaseSettings
from app.storage.blobs import StoredBlob
from app.storage.database import Database
from app.storage.migrate import migrate
from app.storage.schema import HEAD, check_schema
from tests.conftest import open_migrated
from tests.mariadb import free_port
from tests.processes import ROOT

_COLUMNS = {"user_id", "report_path", "media_type", "size", "digest", "modified_ns", "version"}
_RACE = """
import json, os, sys
from pathlib import Path
from app.settings import DatabaseSettings
from app.storage.migrate import migrate
values = json.loads(sys.argv[1])
settings = DatabaseSettings(**values | {"path": Path(values["path"])})
children = []
for _ in range(6):
    if not (child := os.fork()):
        migrate(settings)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def _engine(settings: DatabaseSettings) -> sa.Engine:
    """For tables as another program would make them."""
    if settings.host is None:
        return sa.create_engine(f"sqlite:///{settings.path}", poolclass=sa.NullPool)
    where = f"{settings.user}:{settings.password}@{settings.host}:{settings.port}/{settings.name}"
    return sa.create_engine(f"mysql+pymysql://{where}?charset=utf8mb4", poolclass=sa.NullPool)


def _run(settings: DatabaseSettings, *statements: str) -> None:
    engine = _engine(settings)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def _inspect(settings: DatabaseSettings) -> dict[str, list[str]]:
    engine = _engine(settings)
    inspector = sa.inspect(engine)
    found = {
        table: [column["name"] for column in inspector.get_columns(table)] for table in inspector.get_table_names()
    }
    engine.dispose()
    return found


async def _find(database: Database, user_id: str) -> str | None:
    async with open_catalogue(database, 5) as catalogue:
        entry = await catalogue.find(user_id)
    return None if entry is None else entry.path


# -- fresh, again, at once, half way -----------------------------------------------------------------------------------


async def test_a_fresh_database_gets_the_schema(database_settings: DatabaseSettings) -> None:
    assert migrate(database_settings) == HEAD
    tables = _inspect(database_settings)
    assert set(tables) == {
        "user_reports",
        "report_versions",
        "jobs",
        "instances",
        "idempotency_keys",
        "live_topics",
        "live_events",
        "sluice_schema",
    }
    assert set(tables["user_reports"]) == set(tables["report_versions"]) == _COLUMNS
    async with open_migrated(database_settings) as database:
        await check_schema(database)


async def test_migrating_again_changes_nothing(database_settings: DatabaseSettings) -> None:
    migrate(database_settings)
    _run(database_settings, "INSERT INTO user_reports (user_id, report_path) VALUES ('ada', 'a.pdf')")
    assert migrate(database_settings) == HEAD
    async with open_migrated(database_settings) as database:
        assert await _find(database, "ada") == "a.pdf"


@pytest.mark.parametrize("adopted", [False, True], ids=["fresh", "adopted"])
async def test_several_processes_may_migrate_at_once(database_settings: DatabaseSettings, adopted: bool) -> None:
    if adopted:
        _run(
            database_settings,
            "CREATE TABLE user_reports (user_id VARCHAR(50), report_path VARCHAR(200))",
            "INSERT INTO user_reports VALUES ('ada', 'a.pdf')",
        )
    values = json.dumps(asdict(database_settings), default=str)
    # Processes that are forked when all is loaded, so that they really come at once.
    command = [sys.executable, "-c", _RACE, values]
    done = await trio.run_process(command, cwd=ROOT, capture_stderr=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    async with open_migrated(database_settings) as database:
        await check_schema(database)
        assert await _find(database, "ada") == ("a.pdf" if adopted else None)


@pytest.mark.parametrize(
    "half",
    [
        "CREATE TABLE user_reports (user_id VARCHAR(50), report_path VARCHAR(200), media_type VARCHAR(127))",
        "CREATE TABLE user_reports (user_id VARCHAR(50), report_path VARCHAR(200), media_type VARCHAR(127),"
        " size BIGINT, digest VARCHAR(64), modified_ns BIGINT, version BIGINT NOT NULL DEFAULT 1)",
        "CREATE TABLE sluice_schema (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "CREATE TABLE report_versions (user_id VARCHAR(128), version BIGINT, report_path TEXT, media_type VARCHAR(127),"
        " size BIGINT, digest VARCHAR(64), modified_ns BIGINT)",
    ],
    ids=["one column added", "all but the index", "only the table of the schema", "no index of versions"],
)
async def test_a_migration_that_was_cut_off_goes_on(database_settings: DatabaseSettings, half: str) -> None:
    _run(database_settings, half)
    assert migrate(database_settings) == HEAD
    assert set(_inspect(database_settings)["user_reports"]) == _COLUMNS
    async with open_migrated(database_settings) as database:
        await check_schema(database)


async def test_a_database_of_the_schema_before_gets_versions_and_keeps_its_reports(
    database_settings: DatabaseSettings,
) -> None:
    migrate(database_settings)
    _run(
        database_settings,
        "DROP TABLE report_versions",
        "DROP INDEX user_reports_report_path" + ("" if database_settings.host is None else " ON user_reports"),
        "UPDATE sluice_schema SET version_num = '0001'",
        "INSERT INTO user_reports (user_id, report_path, media_type, size, digest, modified_ns, version)"
        f" VALUES ('ada', 'a.pdf', 'application/pdf', 5, '{'0' * 64}', 7, 3)",
    )
    stored = Entry("ada", "a.pdf", "application/pdf", 5, "0" * 64, 7, 3)
    async with open_migrated(database_settings) as database, open_catalogue(database, 5) as catalogue:
        await check_schema(database)
        assert await catalogue.versions("ada") == [stored]
        replaced = await catalogue.replace("ada", _BLOB, "application/pdf")
        assert isinstance(replaced, Replaced)
        assert await catalogue.versions("ada") == [replaced.entry, stored]


@pytest.mark.parametrize("table", ["user_reports", "report_versions"])
async def test_looking_for_the_row_of_a_file_does_not_read_all_of_a_table(
    database_settings: DatabaseSettings, table: str
) -> None:
    async with open_migrated(database_settings) as database:
        ((*plan,),) = await database.fetch(
            f"{'EXPLAIN' if database.dialect == 'mysql' else 'EXPLAIN QUERY PLAN'} SELECT report_path FROM {table}"
            " WHERE report_path IN ('a', 'b')"
        )
    assert any(f"{table}_report_path" in str(cell) for cell in plan)


# -- adopting the original's table -------------------------------------------------------------------------------------

_BLOB = StoredBlob("b.pdf", 5, "0" * 64, 10**18)
_TEXTS = [
    "user_id VARCHAR(255) PRIMARY KEY, report_path VARCHAR(255) NOT NULL",
    "user_id VARCHAR(255), report_path VARCHAR(255)",
    "user_id TEXT, report_path TEXT",
    "user_id CHAR(36) NOT NULL, report_path TEXT, UNIQUE (user_id)",
    "user_id VARCHAR(128) NOT NULL, report_path VARCHAR(255), note VARCHAR(20) DEFAULT 'x'",
    "USER_ID VARCHAR(128) NOT NULL, REPORT_PATH VARCHAR(255)",
]


@pytest.mark.parametrize("columns", _TEXTS)
async def test_a_table_of_texts_is_adopted(database_settings: DatabaseSettings, columns: str) -> None:
    _run(
        database_settings,
        f"CREATE TABLE user_reports ({columns})",
        "INSERT INTO user_reports (user_id, report_path) VALUES ('ada', 'a.pdf'), ('bob', '/abs/b.pdf')",
    )
    async with open_migrated(database_settings) as database, open_catalogue(database, 5) as catalogue:
        await check_schema(database)
        assert await catalogue.find("ada") == Entry("ada", "a.pdf", None, None, None, None, 1)
        assert await _find(database, "bob") == "/abs/b.pdf"
        assert await _find(database, "eve") is None
        replaced = await catalogue.replace("ada", _BLOB, "application/pdf")
        assert isinstance(replaced, Replaced)
        assert replaced.entry.version == 2
        assert await catalogue.find("ada") == replaced.entry
        assert isinstance(await catalogue.replace("eve", _BLOB, "application/pdf"), Replaced)
        assert await _find(database, "eve") == "b.pdf"


async def test_of_several_rows_of_one_user_the_last_counts(database_settings: DatabaseSettings) -> None:
    _run(
        database_settings,
        "CREATE TABLE user_reports (user_id VARCHAR(50), report_path VARCHAR(200))",
        "INSERT INTO user_reports VALUES ('ada', 'z.pdf'), ('bob', 'b.pdf'), ('ada', 'a.pdf')",
    )
    async with open_migrated(database_settings) as database, open_catalogue(database, 5) as catalogue:
        assert await _find(database, "ada") == "a.pdf"
        await catalogue.replace("ada", _BLOB, "application/pdf")
        assert await _find(database, "ada") == "b.pdf"
        assert await _find(database, "bob") == "b.pdf"


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
async def test_a_table_of_numbers_is_adopted(database_settings: DatabaseSettings, key: str) -> None:
    _run(
        database_settings,
        f"CREATE TABLE user_reports (user_id INT {key}, report_path VARCHAR(200))",
        "INSERT INTO user_reports VALUES (7, 'seven.pdf'), (0, 'zero.pdf')",
    )
    async with open_migrated(database_settings) as database, open_catalogue(database, 5) as catalogue:
        assert await _find(database, "7") == "seven.pdf"
        for other in ("ada", "07", "7.0", "7a", "1e1"):  # what MySQL takes for a 7, or for a 0
            assert await _find(database, other) is None
        await catalogue.replace("7", _BLOB, "application/pdf")
        assert await _find(database, "7") == "b.pdf"


async def test_a_name_that_is_no_number_does_not_replace_the_report_of_a_number(
    database_settings: DatabaseSettings,
) -> None:
    """Both databases would store ``07`` as 7, where the last row counts."""
    _run(database_settings, "CREATE TABLE user_reports (user_id INT, report_path VARCHAR(200))")
    _run(database_settings, "INSERT INTO user_reports VALUES (7, 'seven.pdf')")
    async with open_migrated(database_settings) as database, open_catalogue(database, 5) as catalogue:
        with pytest.raises(BadUserId):
            await catalogue.replace("07", _BLOB, "application/pdf")
        assert await _find(database, "7") == "seven.pdf"


@pytest.mark.parametrize(
    "kind", ["DECIMAL(20, 0)", "BIGINT UNSIGNED", "ENUM('12', '13')", "UUID", "VARBINARY(40)", "BLOB"]
)
async def test_other_types_of_mysql_are_adopted_without_a_key(mysql_settings: DatabaseSettings, kind: str) -> None:
    user = "123e4567-e89b-12d3-a456-426614174000" if kind == "UUID" else "12"
    _run(
        mysql_settings,
        f"CREATE TABLE user_reports (user_id {kind} NOT NULL, report_path VARCHAR(200))",
        f"INSERT INTO user_reports VALUES ('{user}', 'a.pdf')",
    )
    async with open_migrated(mysql_settings) as database:
        assert await _find(database, user) == "a.pdf"


async def test_looking_a_user_up_in_an_adopted_table_does_not_read_all_of_it(
    database_settings: DatabaseSettings,
) -> None:
    _run(database_settings, "CREATE TABLE user_reports (user_id VARCHAR(50), report_path VARCHAR(200))")
    migrate(database_settings)
    engine = _engine(database_settings)
    indexes = sa.inspect(engine).get_indexes("user_reports")
    engine.dispose()
    assert sorted(index["column_names"] for index in indexes) == [["report_path"], ["user_id"]]


async def test_where_case_does_not_matter_to_the_table_it_still_does_to_us(mysql_settings: DatabaseSettings) -> None:
    _run(
        mysql_settings,
        "CREATE TABLE user_reports (user_id VARCHAR(50), report_path VARCHAR(200)) COLLATE utf8mb4_general_ci",
        "INSERT INTO user_reports VALUES ('Bob', 'big.pdf'), ('ada', 'a.pdf')",
    )
    async with open_migrated(mysql_settings) as database:
        assert await _find(database, "Bob") == "big.pdf"
        assert await _find(database, "bob") is None


# -- what cannot be migrated or served ---------------------------------------------------------------------------------


def _refusal(settings: DatabaseSettings) -> str:
    with pytest.raises(StartError) as caught:
        migrate(settings)
    (line,) = caught.value.lines
    assert not settings.password or settings.password not in line
    return line


async def _schema_refusal(database: Database) -> str:
    with pytest.raises(StartError) as caught:
        await check_schema(database)
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


async def test_a_database_that_was_never_migrated_is_refused_with_what_to_do(database: Database) -> None:
    await database.execute("DROP TABLE sluice_schema")
    assert "migrate" in await _schema_refusal(database)


async def test_a_schema_without_a_version_is_refused_with_what_to_do(database: Database) -> None:
    await database.execute("DELETE FROM sluice_schema")
    assert "migrate" in await _schema_refusal(database)


async def test_an_older_schema_is_refused_with_what_to_do(database: Database) -> None:
    await database.execute("UPDATE sluice_schema SET version_num = '0000'")
    line = await _schema_refusal(database)
    assert "0000" in line
    assert "migrate" in line


async def test_a_newer_schema_is_refused(database: Database, database_settings: DatabaseSettings) -> None:
    await database.execute("UPDATE sluice_schema SET version_num = '0099'")
    assert "newer" in await _schema_refusal(database)
    assert "0099" in _refusal(database_settings)


async def test_a_table_of_that_name_that_is_something_else_is_refused(database_settings: DatabaseSettings) -> None:
    _run(database_settings, "CREATE TABLE user_reports (id INT PRIMARY KEY, title VARCHAR(20))")
    assert "user_reports" in _refusal(database_settings)
    assert _inspect(database_settings)["user_reports"] == ["id", "title"]


def test_a_server_that_is_away_is_told_in_words(mysql_settings: DatabaseSettings) -> None:
    assert "migrated" in _refusal(replace(mysql_settings, port=free_port()))


def test_a_wrong_password_is_told_without_it(mysql_settings: DatabaseSettings) -> None:
    assert "Access denied" in _refusal(replace(mysql_settings, password="a-wrong-secret"))


def test_a_file_that_is_no_database_is_refused(sqlite_settings: DatabaseSettings) -> None:
    sqlite_settings.path.write_bytes(b"%PDF" * 3000)
    assert "not a database" in _refusal(sqlite_settings)


def test_a_folder_that_cannot_be_made_is_told(sqlite_settings: DatabaseSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in _refusal(replace(sqlite_settings, path=tmp_path / "file" / "sluice.db"))


def test_a_server_that_never_speaks_is_given_up(
    mysql_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.migrate, "_CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "migrated" in _refusal(replace(mysql_settings, port=silent.getsockname()[1]))


def test_a_migration_that_waits_for_another_for_too_long_is_given_up(
    sqlite_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.migrate, "_LOCK_SECONDS", 0.1)
    with sqlite_settings.path.with_suffix(".migrate-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another instance" in _refusal(sqlite_settings)
