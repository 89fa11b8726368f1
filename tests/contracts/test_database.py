"""The contract of `app.storage.database.Database`, over each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from app.errors import DuplicateKey, Overloaded, QueryFailed
from app.settings import DatabaseSettings
from app.storage.database import Database, Rows
from tests.conftest import open_migrated

_HARD_TEXTS = ["", "naïve 100% ?", "'; -- \\' \"", "line\nline\r\0\x1a", "%s %(a)s %%", "😀" * 50]
_COUNT = "SELECT count(*) FROM things"


@pytest.fixture
async def narrow(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """Each kind of database in turn, where one transaction makes all others wait."""
    async with open_migrated(replace(database_settings, pool=1)) as opened:
        await opened.execute("CREATE TABLE things (a BIGINT)")
        yield opened


async def _fill(database: Database, rows: int) -> None:
    await database.execute("CREATE TABLE things (a BIGINT)")
    marks = ", ".join(["(?)"] * rows)
    await database.execute(f"INSERT INTO things (a) VALUES {marks}", list(range(rows)))


async def test_rows_come_back_as_they_went_in(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BIGINT, b VARCHAR(20), c DOUBLE PRECISION)")
    assert await database.execute("INSERT INTO things (a, b, c) VALUES (?, ?, ?)", (2**62, "naïve 100% ?", None)) == 1
    assert await database.fetch("SELECT a, b, c FROM things WHERE b = ?", ("naïve 100% ?",)) == [
        (2**62, "naïve 100% ?", None)
    ]


@pytest.mark.parametrize("text", _HARD_TEXTS)
async def test_a_parameter_is_data_whatever_is_in_it(database: Database, text: str) -> None:
    await database.execute("INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)", ("ada", text))
    assert await database.fetch("SELECT report_path FROM user_reports WHERE report_path = ?", (text,)) == [(text,)]


async def test_bytes_come_back_as_they_went_in(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BLOB)")
    await database.execute("INSERT INTO things (a) VALUES (?)", (bytes(range(256)),))
    assert await database.fetch("SELECT a FROM things") == [(bytes(range(256)),)]


async def test_a_percent_sign_in_the_statement_stands_for_itself(database: Database) -> None:
    assert await database.fetch("SELECT 7 % 4, 'abc' LIKE 'a%', ? + 0", (5,)) == [(3, 1, 5)]


async def test_a_query_without_rows_is_an_empty_list(database: Database) -> None:
    assert await database.fetch("SELECT user_id FROM user_reports") == []


async def test_execute_tells_how_many_rows_it_touched(database: Database) -> None:
    await _fill(database, 3)
    assert await database.execute("UPDATE things SET a = a + 10 WHERE a > ?", (0,)) == 2
    assert await database.execute("DELETE FROM things WHERE a > ?", (100,)) == 0
    assert await database.execute("DELETE FROM things") == 3


async def test_a_row_that_already_has_the_new_value_counts_as_touched(database: Database) -> None:
    await _fill(database, 3)
    assert await database.execute("UPDATE things SET a = 1 WHERE a = 1") == 1


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_a_row_whose_key_is_there_is_refused_for_that_reason(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BIGINT NOT NULL PRIMARY KEY, b BIGINT NOT NULL UNIQUE)")
    await database.execute("INSERT INTO things (a, b) VALUES (1, 1)")
    for values in ((1, 2), (2, 1)):
        with pytest.raises(DuplicateKey):
            await database.execute("INSERT INTO things (a, b) VALUES (?, ?)", values)
    with pytest.raises(QueryFailed) as raised:
        await database.execute("INSERT INTO things (a, b) VALUES (3, NULL)")
    assert not isinstance(raised.value, DuplicateKey)


async def test_a_refused_statement_leaves_the_connection_of_use(database: Database) -> None:
    with pytest.raises(QueryFailed):
        await database.fetch("SELECT nothing FROM nowhere")
    before = database.statistics().opened
    await database.ping()
    assert database.statistics().opened == before


@pytest.mark.parametrize("sql", ["SELECT nothing FROM nowhere", "NONSENSE", "INSERT INTO user_reports (a) VALUES (1)"])
async def test_what_was_refused_is_told_to_the_log_only(database: Database, sql: str) -> None:
    with pytest.raises(QueryFailed) as caught:
        await database.execute(sql)
    assert caught.value.internal
    assert caught.value.internal not in caught.value.detail
    assert caught.value.retry_after is None


async def test_a_row_that_breaks_a_key_is_refused(database: Database) -> None:
    insert = "INSERT INTO user_reports (user_id, report_path) VALUES ('ada', 'a.pdf')"
    await database.execute(insert)
    with pytest.raises(QueryFailed):
        await database.execute(insert)


async def test_a_stream_of_a_refused_statement_leaves_the_connection_of_use(database: Database) -> None:
    await database.ping()
    before = database.statistics()
    with pytest.raises(QueryFailed):
        async with database.stream("SELECT nothing FROM nowhere"):
            pass
    await database.ping()
    after = database.statistics()
    assert (after.opened, after.discarded, after.killed) == (before.opened, before.discarded, before.killed)


async def test_a_text_that_cannot_be_encoded_is_refused(database: Database) -> None:
    with pytest.raises(QueryFailed):
        await database.fetch("SELECT ?", ("\ud800",))
    await database.ping()
    assert database.statistics().killed == 0


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_every_row_once_in_batches_of_the_asked_size(database: Database) -> None:
    await _fill(database, 1050)
    batches: list[Rows] = []
    async with database.stream("SELECT a FROM things WHERE a < ? ORDER BY a", (1040,), batch=100) as stream:
        async for batch in stream:
            batches.append(batch)
    assert [len(batch) for batch in batches] == [100] * 10 + [40]
    assert [row for batch in batches for row in batch] == [(number,) for number in range(1040)]


async def test_a_stream_without_rows_gives_no_batch(database: Database) -> None:
    async with database.stream("SELECT user_id FROM user_reports") as stream:
        assert [batch async for batch in stream] == []


async def test_a_stream_that_was_read_to_its_end_gives_its_connection_back(database: Database) -> None:
    await _fill(database, 10)
    before = database.statistics()
    async with database.stream("SELECT a FROM things", batch=5) as stream:
        assert [len(batch) async for batch in stream] == [5, 5]
    after = database.statistics()
    assert (after.open, after.idle, after.discarded) == (before.open, after.open, before.discarded)


async def test_leaving_a_stream_early_frees_its_connection(narrow: Database) -> None:
    numbers = "SELECT seq FROM seq_1_to_1000000000"
    if narrow.dialect == "sqlite":
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    for _ in range(6):  # more often than there are connections
        async with narrow.stream(numbers, batch=3) as stream:
            assert await anext(stream) == [(1,), (2,), (3,)]
    await narrow.ping()


async def test_streams_hold_half_of_the_connections_and_more_are_refused_at_once(
    database_settings: DatabaseSettings,
) -> None:
    async with open_migrated(replace(database_settings, pool=5)) as database:
        await _fill(database, 10)
        async with AsyncExitStack() as streams:
            for _ in range(2):  # of five connections of MySQL's, of four readers of SQLite's
                stream = await streams.enter_async_context(database.stream("SELECT a FROM things", batch=1))
                assert len(await anext(stream)) == 1
            for _ in range(3):
                with pytest.raises(Overloaded) as refused:
                    async with database.stream("SELECT a FROM things"):
                        pass
                assert refused.value.retry_after is not None
            assert database.statistics().streams == 2
            with trio.fail_after(20):
                await database.ping()
                assert await database.fetch(_COUNT) == [(10,)]
        assert database.statistics().streams == 0
        async with database.stream("SELECT a FROM things") as stream:
            assert [len(batch) async for batch in stream] == [10]


async def test_a_stream_that_fails_or_is_cancelled_gives_its_place_back(narrow: Database) -> None:
    for _ in range(3):
        with pytest.raises(QueryFailed):
            async with narrow.stream("SELECT nothing FROM nowhere"):
                pass
        with trio.CancelScope() as scope:
            async with narrow.stream("SELECT 1") as stream:
                scope.cancel()
                await anext(stream)
    assert narrow.statistics().streams == 0


# -- transactions ------------------------------------------------------------------------------------------------------


async def test_a_transaction_sees_its_own_rows_and_others_see_them_after_it(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BIGINT)")
    async with database.transaction() as transaction:
        assert await transaction.execute("INSERT INTO things (a) VALUES (?)", (1,)) == 1
        assert await transaction.fetch("SELECT a FROM things") == [(1,)]
        assert await database.fetch("SELECT a FROM things") == []
    assert await database.fetch("SELECT a FROM things") == [(1,)]


async def test_a_transaction_that_raises_is_rolled_back_and_frees_its_connection(narrow: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with narrow.transaction() as transaction:
            await transaction.execute("INSERT INTO things (a) VALUES (1)")
            raise ZeroDivisionError
    assert await narrow.fetch(_COUNT) == [(0,)]
    assert narrow.statistics().discarded == 0


async def test_a_transaction_with_a_refused_statement_is_rolled_back(narrow: Database) -> None:
    with pytest.raises(QueryFailed):
        async with narrow.transaction() as transaction:
            await transaction.execute("INSERT INTO things (a) VALUES (1)")
            await transaction.execute("INSERT INTO nowhere (a) VALUES (1)")
    await narrow.execute("INSERT INTO things (a) VALUES (2)")
    assert await narrow.fetch("SELECT a FROM things") == [(2,)]


async def test_a_transaction_that_is_cancelled_is_rolled_back(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BIGINT)")
    with trio.CancelScope() as scope:
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO things (a) VALUES (?)", (1,))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert await database.fetch("SELECT a FROM things") == []


# -- many at once ------------------------------------------------------------------------------------------------------


async def test_fifty_tasks_at_once_each_get_their_own_answer(database: Database) -> None:
    answers: dict[int, Rows] = {}

    async def ask(number: int) -> None:
        answers[number] = await database.fetch("SELECT ? + 0", (number,))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ask, number)
    assert answers == {number: [(number,)] for number in range(50)}
    assert database.statistics().open <= database.statistics().size


async def test_fifty_transactions_at_once_lose_no_change(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BIGINT)")
    await database.execute("INSERT INTO things (a) VALUES (0)")

    async def add() -> None:
        async with database.transaction() as transaction:
            await transaction.execute("UPDATE things SET a = a + 1")
            ((value,),) = await transaction.fetch("SELECT a FROM things")
            await transaction.execute("UPDATE things SET a = ?", (value,))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(add)
    assert await database.fetch("SELECT a FROM things") == [(50,)]


async def test_those_who_wait_for_a_connection_get_it_in_order(narrow: Database) -> None:
    served: list[int] = []

    async def use(number: int) -> None:
        async with narrow.transaction():
            served.append(number)

    async with trio.open_nursery() as nursery, narrow.transaction():
        for number in range(8):
            nursery.start_soon(use, number)
            await wait_all_tasks_blocked()
        assert narrow.statistics().waiting == 8
    assert served == list(range(8))
    assert narrow.statistics().waiting == 0


async def test_a_deadline_ends_the_wait_for_a_connection(narrow: Database) -> None:
    async with narrow.transaction():
        with trio.move_on_after(0.05) as scope:
            await narrow.execute("INSERT INTO things (a) VALUES (1)")
        assert scope.cancelled_caught
        assert narrow.statistics().waiting == 0
    assert await narrow.fetch(_COUNT) == [(0,)]


async def test_statistics_count_what_is_open_and_what_is_idle(database: Database) -> None:
    await database.ping()
    before = database.statistics()
    async with database.transaction():
        inside = database.statistics()
        assert inside.idle == inside.open - 1
    after = database.statistics()
    assert (after.open, after.idle, after.waiting) == (after.opened, after.open, 0)
    assert before.open <= after.open <= after.size
