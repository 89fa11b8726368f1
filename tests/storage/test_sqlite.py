"""What only the embedded database can do wrong: files, locks between processes, interrupted threads."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

import app.storage.sqlite
from app.errors import DatabaseUnavailable, InsufficientStorage, StartError
from app.flow.threads import ThreadPool
from app.settings import DatabaseSettings
from app.storage.migrate import migrate
from app.storage.sqlite import SqliteDatabase, open_sqlite
from tests.conftest import open_migrated
from tests.processes import ROOT

_ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
_ADD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
print("ready", flush=True)
sys.stdin.read(1)
for _ in range(int(sys.argv[2])):
    connection.execute("BEGIN IMMEDIATE")
    value = connection.execute("SELECT a FROM things").fetchone()[0]
    connection.execute("UPDATE things SET a = ?", (value + 1,))
    connection.execute("COMMIT")
"""


@pytest.fixture
def threads() -> ThreadPool:
    return ThreadPool("database", 8)


@pytest.fixture
async def sqlite(sqlite_settings: DatabaseSettings) -> AsyncIterator[SqliteDatabase]:
    async with open_migrated(sqlite_settings) as opened:
        assert isinstance(opened, SqliteDatabase)
        await opened.execute("CREATE TABLE things (a BIGINT)")
        await opened.execute("INSERT INTO things (a) VALUES (0)")
        yield opened


def _process(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that is ready to run ``script`` and does so when something is written to it."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


# -- interrupted statements --------------------------------------------------------------------------------------------


async def test_a_cancelled_statement_is_interrupted_and_its_connection_goes_on(sqlite: SqliteDatabase) -> None:
    before = sqlite.statistics()
    for _ in range(3):
        with trio.fail_after(60), trio.move_on_after(0.1):
            await sqlite.fetch(_ENDLESS)
    await sqlite.ping()
    after = sqlite.statistics()
    assert (after.opened, after.discarded, after.killed) == (before.opened, 0, before.killed + 3)


async def test_no_thread_is_left_when_the_call_returns(sqlite_settings: DatabaseSettings, threads: ThreadPool) -> None:
    migrate(sqlite_settings)
    async with open_sqlite(sqlite_settings.path, threads) as sqlite:
        with trio.move_on_after(0.1):
            await sqlite.fetch(_ENDLESS)
        with trio.fail_after(30):  # the thread hands its permit back a moment after the call has ended
            while threads.statistics().busy:  # noqa: ASYNC110 - what changes it has no event for us
                await trio.sleep(0.001)


async def test_a_full_pool_of_endless_statements_is_freed_at_once(sqlite: SqliteDatabase) -> None:
    with trio.fail_after(60):
        with trio.move_on_after(0.2):
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(sqlite.fetch, _ENDLESS)
        await sqlite.ping()
    state = sqlite.statistics()
    assert (state.idle, state.waiting) == (state.open, 0)
    assert state.killed == 4  # the others had not begun


async def test_a_transaction_cancelled_while_it_begins_gives_the_write_lock_back(
    sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, leave = trio.Event(), threading.Event()
    try_begin = app.storage.sqlite._try_begin

    def slow_try_begin(raw: sqlite3.Connection) -> sqlite3.Cursor | None:
        try:
            return try_begin(raw)
        finally:
            trio.from_thread.run_sync(begun.set)
            leave.wait(30)

    with monkeypatch.context() as patch:
        patch.setattr(app.storage.sqlite, "_try_begin", slow_try_begin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sqlite.execute, "UPDATE things SET a = 1")
            await begun.wait()
            nursery.cancel_scope.cancel()
            leave.set()
    await sqlite.execute("UPDATE things SET a = 2")
    assert await sqlite.fetch("SELECT a FROM things") == [(2,)]


async def test_who_gives_up_waiting_for_the_write_lock_does_not_keep_it(
    sqlite: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, with the limit of our own in place of the caller's."""
    try_begin = app.storage.sqlite._try_begin

    def slow_try_begin(raw: sqlite3.Connection) -> sqlite3.Cursor | None:
        begun = try_begin(raw)
        threading.Event().wait(0.2)
        return begun

    with monkeypatch.context() as patch:
        patch.setattr(app.storage.sqlite, "_try_begin", slow_try_begin)
        patch.setattr(app.storage.sqlite, "_LOCK_SECONDS", 0.05)
        with pytest.raises(DatabaseUnavailable):
            await sqlite.execute("UPDATE things SET a = 1")
    await sqlite.execute("UPDATE things SET a = 2")


# -- other processes ---------------------------------------------------------------------------------------------------


async def test_two_processes_that_write_lose_no_change(
    sqlite: SqliteDatabase, sqlite_settings: DatabaseSettings
) -> None:
    with _process(_ADD, sqlite_settings.path, 100) as other:
        assert other.stdin is not None
        other.stdin.close()
        for _ in range(100):
            async with sqlite.transaction() as transaction:
                ((value,),) = await transaction.fetch("SELECT a FROM things")
                assert isinstance(value, int)
                await transaction.execute("UPDATE things SET a = ?", (value + 1,))
        assert await trio.to_thread.run_sync(other.wait) == 0
    assert await sqlite.fetch("SELECT a FROM things") == [(200,)]


async def test_readers_are_not_held_up_by_a_writer(sqlite: SqliteDatabase, sqlite_settings: DatabaseSettings) -> None:
    other = sqlite3.connect(sqlite_settings.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    other.execute("UPDATE things SET a = 5")
    assert await sqlite.fetch("SELECT a FROM things") == [(0,)]
    other.execute("COMMIT")
    other.close()
    assert await sqlite.fetch("SELECT a FROM things") == [(5,)]


async def test_the_wait_for_another_process_can_be_cancelled(
    sqlite: SqliteDatabase, sqlite_settings: DatabaseSettings
) -> None:
    other = sqlite3.connect(sqlite_settings.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with trio.fail_after(20):  # less than what the wait lasts
        with trio.move_on_after(0.1) as scope:
            await sqlite.execute("UPDATE things SET a = 1")
    assert scope.cancelled_caught
    other.close()
    await sqlite.execute("UPDATE things SET a = 2")


async def test_a_writer_that_never_ends_makes_the_database_unavailable(
    sqlite: SqliteDatabase, sqlite_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.sqlite, "_LOCK_SECONDS", 0.1)
    other = sqlite3.connect(sqlite_settings.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable) as caught:
        await sqlite.execute("UPDATE things SET a = 1")
    assert caught.value.retry_after
    other.close()
    await sqlite.execute("UPDATE things SET a = 2")


async def test_opening_waits_for_a_process_that_has_the_file_to_itself(
    sqlite_settings: DatabaseSettings, threads: ThreadPool
) -> None:
    """As the last one that closes a database in write-ahead mode has it, for a moment."""
    migrate(sqlite_settings)
    other = sqlite3.connect(sqlite_settings.path, isolation_level=None)
    for statement in ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE", "COMMIT"):
        other.execute(statement)

    async def leave() -> None:
        await trio.sleep(0.3)
        other.close()

    with closing(other):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            async with open_sqlite(sqlite_settings.path, threads) as sqlite:
                await sqlite.ping()


# -- the file ----------------------------------------------------------------------------------------------------------


async def _refusal(path: Path, threads: ThreadPool) -> str:
    with pytest.raises(StartError) as caught:
        async with open_sqlite(path, threads):
            pass
    (line,) = caught.value.lines
    assert str(path) in line
    assert "\n" not in line
    return line


async def test_a_missing_file_is_told_with_what_to_do_and_not_made(tmp_path: Path, threads: ThreadPool) -> None:
    assert "migrate" in await _refusal(tmp_path / "none.db", threads)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib's is not for async functions


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, threads: ThreadPool) -> None:
    path = tmp_path / "sluice.db"
    path.write_bytes(b"%PDF-1.7" + os.urandom(8192))
    assert "not a database" in await _refusal(path, threads)
    assert path.read_bytes()[:8] == b"%PDF-1.7"


async def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path, threads: ThreadPool) -> None:
    (tmp_path / "sluice.db").mkdir()
    await _refusal(tmp_path / "sluice.db", threads)


async def test_a_database_that_got_corrupt_is_unavailable(
    sqlite_settings: DatabaseSettings, threads: ThreadPool
) -> None:
    migrate(sqlite_settings)
    content = bytearray(sqlite_settings.path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    sqlite_settings.path.write_bytes(content)
    async with open_sqlite(sqlite_settings.path, threads) as sqlite:
        with pytest.raises(DatabaseUnavailable):
            await sqlite.fetch("SELECT user_id FROM user_reports WHERE user_id = 'a'")


async def test_it_runs_in_write_ahead_mode_and_syncs_each_commit(sqlite: SqliteDatabase) -> None:
    assert await sqlite.fetch("PRAGMA journal_mode") == [("wal",)]
    assert await sqlite.fetch("PRAGMA synchronous") == [(2,)]


async def test_it_never_has_more_threads_than_its_pool(sqlite_settings: DatabaseSettings) -> None:
    migrate(sqlite_settings)
    threads = ThreadPool("database", 1)
    async with open_sqlite(sqlite_settings.path, threads) as sqlite, trio.open_nursery() as nursery:
        await sqlite.execute("CREATE TABLE things (a BIGINT)")
        for number in range(20):
            nursery.start_soon(sqlite.fetch, "SELECT ?", (number,))
            nursery.start_soon(sqlite.execute, "INSERT INTO things (a) VALUES (?)", (number,))
    assert threads.statistics().size == 1


async def test_closing_leaves_no_file_open(sqlite_settings: DatabaseSettings, threads: ThreadPool) -> None:
    migrate(sqlite_settings)
    async with open_sqlite(sqlite_settings.path, threads) as sqlite:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(sqlite.ping)
        await sqlite.execute("CREATE TABLE things (a BIGINT)")
    assert _open_files(sqlite_settings.path) == []


async def test_who_still_works_at_the_close_leaves_no_file_open_either(
    sqlite_settings: DatabaseSettings, threads: ThreadPool, nursery: trio.Nursery
) -> None:
    migrate(sqlite_settings)
    working, closed, done = trio.Event(), trio.Event(), trio.Event()

    async def work(sqlite: SqliteDatabase) -> None:
        async with sqlite.transaction():
            working.set()
            await closed.wait()
        done.set()

    async with open_sqlite(sqlite_settings.path, threads) as sqlite:
        nursery.start_soon(work, sqlite)
        await working.wait()
    closed.set()
    await done.wait()
    assert _open_files(sqlite_settings.path) == []


def _open_files(path: Path) -> list[str]:
    targets = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [target for target in targets if target.startswith(str(path))]


async def test_a_file_that_was_removed_or_replaced_is_told(
    sqlite_settings: DatabaseSettings, threads: ThreadPool
) -> None:
    """The one that is open would otherwise be served for ever, and what is added to the new one never found."""
    migrate(sqlite_settings)
    async with open_sqlite(sqlite_settings.path, threads) as sqlite:
        await sqlite.ping()
        sqlite_settings.path.unlink()
        with pytest.raises(DatabaseUnavailable, match="removed or replaced"):
            await sqlite.ping()
        migrate(sqlite_settings)
        with pytest.raises(DatabaseUnavailable, match="removed or replaced"):
            await sqlite.ping()


async def test_a_database_that_is_full_says_so_and_goes_on_when_there_is_room(
    sqlite_settings: DatabaseSettings,
) -> None:
    async with open_migrated(sqlite_settings) as database:
        async with database.transaction() as transaction:
            ((pages,),) = await transaction.fetch("PRAGMA page_count")
        # Of the one connection that writes.
        await database.execute(f"PRAGMA max_page_count = {pages}")
        insert = "INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)"
        with pytest.raises(InsufficientStorage):
            await database.execute(insert, ("ada", "x" * 100_000))
        await database.execute("PRAGMA max_page_count = 1000000")
        await database.execute(insert, ("ada", "x" * 100_000))
        assert await database.fetch("SELECT count(*) FROM user_reports") == [(1,)]
