"""The contract of `app.storage.lookup.Lookup`: with a query of our own, and over each kind of database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from app.errors import DatabaseUnavailable, QueryFailed
from app.flow.request import RequestScope, current_request
from app.storage.database import Database
from app.storage.lookup import FetchMany, Lookup, open_lookup


class _Queries:
    """Answers each key with itself in capitals, once it may; remembers what was asked and how each query ended."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.ended: list[list[str]] = []
        self.poison: dict[str, Exception] = {}
        self.missing: set[str] = set()
        self.go = trio.Event()

    async def __call__(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(list(keys))
        try:
            await self.go.wait()
        finally:
            self.ended.append(list(keys))
        for key in keys:
            if key in self.poison:
                raise self.poison[key]
        return {key: key.upper() for key in keys if key not in self.missing}


@pytest.fixture
def queries() -> _Queries:
    return _Queries()


@pytest.fixture
async def lookup(queries: _Queries) -> AsyncIterator[Lookup[str]]:
    async with open_lookup(queries) as opened:
        yield opened


class _Callers:
    """Callers of one look-up, and what each got."""

    def __init__(self, nursery: trio.Nursery, lookup: Lookup[str]) -> None:
        self._nursery = nursery
        self._lookup = lookup
        self.got: list[tuple[str, str | Exception | None]] = []

    async def ask(self, *keys: str) -> list[trio.CancelScope]:
        """One caller for each key; returns when all of them wait."""
        scopes = [trio.CancelScope() for _ in keys]
        for key, scope in zip(keys, scopes, strict=True):
            self._nursery.start_soon(self._ask, key, scope)
        await wait_all_tasks_blocked()
        return scopes

    async def _ask(self, key: str, scope: trio.CancelScope) -> None:
        with scope:
            try:
                self.got.append((key, await self._lookup.get(key)))
            except Exception as error:
                self.got.append((key, error))


@pytest.fixture
def callers(nursery: trio.Nursery, lookup: Lookup[str]) -> _Callers:
    return _Callers(nursery, lookup)


async def test_one_caller_does_not_wait_for_company(queries: _Queries, lookup: Lookup[str]) -> None:
    queries.go.set()
    assert await lookup.get("a") == "A"
    assert queries.asked == [["a"]]


async def test_a_key_without_value_is_none(queries: _Queries, lookup: Lookup[str]) -> None:
    queries.go.set()
    queries.missing.add("a")
    assert await lookup.get("a") is None


async def test_callers_that_arrive_together_share_a_query(queries: _Queries, callers: _Callers) -> None:
    await callers.ask("a", "b", "c")
    assert sorted(queries.asked[0]) == ["a", "b", "c"]
    queries.go.set()
    await wait_all_tasks_blocked()
    assert sorted(callers.got) == [("a", "A"), ("b", "B"), ("c", "C")]
    assert len(queries.asked) == 1


async def test_where_there_is_company_who_comes_within_a_turn_joins(
    queries: _Queries, callers: _Callers, lookup: Lookup[str], nursery: trio.Nursery
) -> None:
    queries.go.set()
    for key in ("a", "b"):
        nursery.start_soon(lookup.get, key)
    await trio.lowlevel.checkpoint()  # they have asked, and the query's turn is next
    await trio.lowlevel.checkpoint()
    assert await lookup.get("c") == "C"
    assert [sorted(keys) for keys in queries.asked] == [["a", "b", "c"]]


async def test_callers_for_one_key_ask_for_it_once(queries: _Queries, callers: _Callers) -> None:
    await callers.ask("a", "a", "b", "a")
    queries.go.set()
    await wait_all_tasks_blocked()
    assert sorted(queries.asked[0]) == ["a", "b"]
    assert sorted(callers.got) == [("a", "A"), ("a", "A"), ("a", "A"), ("b", "B")]


async def test_a_caller_never_joins_a_query_that_has_started(queries: _Queries, callers: _Callers) -> None:
    await callers.ask("a")
    await callers.ask("a")
    assert queries.asked == [["a"], ["a"]]
    queries.go.set()


async def test_while_two_queries_run_the_others_gather_for_the_next(queries: _Queries, callers: _Callers) -> None:
    await callers.ask("a")
    await callers.ask("b")
    for number in range(10):
        await callers.ask(f"c{number}")
    assert queries.asked == [["a"], ["b"]]
    queries.go.set()
    await wait_all_tasks_blocked()
    assert queries.asked[2:] == [[f"c{number}" for number in range(10)]]
    assert len(callers.got) == 12


async def test_a_query_asks_for_a_bounded_number_of_keys(queries: _Queries, callers: _Callers) -> None:
    await callers.ask(*(f"k{number}" for number in range(1000)))
    queries.go.set()
    await wait_all_tasks_blocked()
    assert [len(keys) for keys in queries.asked] == [256, 256, 256, 232]
    assert len(callers.got) == 1000


async def test_never_more_than_two_queries_run_at_once(queries: _Queries, callers: _Callers) -> None:
    for key in "abcdefgh":
        await callers.ask(key)
        assert len(queries.asked) - len(queries.ended) <= 2
    queries.go.set()


# -- cancellation ------------------------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_does_not_hurt_the_others(queries: _Queries, callers: _Callers) -> None:
    scopes = await callers.ask("a", "a", "b")
    scopes[0].cancel()
    scopes[2].cancel()
    await wait_all_tasks_blocked()
    assert queries.ended == []
    queries.go.set()
    await wait_all_tasks_blocked()
    assert callers.got == [("a", "A")]


async def test_the_query_ends_when_the_last_caller_leaves(queries: _Queries, callers: _Callers) -> None:
    for scope in await callers.ask("a", "b", "c"):
        assert queries.ended == []
        scope.cancel()
        await wait_all_tasks_blocked()
    assert queries.ended == queries.asked


async def test_a_query_that_nobody_waits_for_any_more_never_starts(queries: _Queries, callers: _Callers) -> None:
    await callers.ask("a")
    await callers.ask("b")
    for scope in await callers.ask("c", "d"):
        scope.cancel()
    await wait_all_tasks_blocked()
    queries.go.set()
    await wait_all_tasks_blocked()
    assert queries.asked == [["a"], ["b"]]


async def test_those_who_come_after_an_abandoned_query_get_theirs(queries: _Queries, callers: _Callers) -> None:
    for scope in [*await callers.ask("a"), *await callers.ask("b"), *await callers.ask("c")]:
        scope.cancel()
    await wait_all_tasks_blocked()
    await callers.ask("c")
    queries.go.set()
    await wait_all_tasks_blocked()
    assert callers.got == [("c", "C")]


async def test_a_callers_deadline_ends_its_query(
    queries: _Queries, lookup: Lookup[str], autojump_clock: object
) -> None:
    with trio.move_on_after(5) as scope:
        await lookup.get("a")
    assert scope.cancelled_caught
    await wait_all_tasks_blocked()
    assert queries.ended == [["a"]]


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_a_poisonous_key_fails_alone(queries: _Queries, callers: _Callers) -> None:
    queries.poison["x"] = QueryFailed("refused", internal="x")
    queries.go.set()
    await callers.ask("a", "b", "x", "c", "d", "x")
    got = dict(callers.got)
    assert isinstance(got.pop("x"), QueryFailed)
    assert got == {"a": "A", "b": "B", "c": "C", "d": "D"}


@given(st.sets(st.text("abcdefghij", min_size=1, max_size=3), min_size=1, max_size=60), st.data())
def test_exactly_the_poisonous_keys_fail(keys: set[str], data: st.DataObject) -> None:
    poisonous = data.draw(st.sets(st.sampled_from(sorted(keys))))

    async def run() -> None:
        queries = _Queries()
        queries.poison = {key: QueryFailed("refused") for key in poisonous}
        queries.go.set()
        async with open_lookup(queries) as lookup, trio.open_nursery() as nursery:
            callers = _Callers(nursery, lookup)
            await callers.ask(*keys)
        failed = {key for key, value in callers.got if isinstance(value, QueryFailed)}
        assert failed == poisonous
        assert {key: value for key, value in callers.got if key not in failed} == {
            key: key.upper() for key in keys - poisonous
        }
        assert len(queries.asked) <= max(1, 2 * len(keys) - 1)

    trio.run(run)


async def test_an_absent_database_is_told_to_all_after_one_try(queries: _Queries, callers: _Callers) -> None:
    queries.poison["a"] = DatabaseUnavailable("away", retry_after=7, internal="gone")
    queries.go.set()
    await callers.ask("a", "b", "c")
    errors = [error for _, error in callers.got if isinstance(error, DatabaseUnavailable)]
    assert [(error.detail, error.retry_after, error.internal) for error in errors] == [("away", 7, "gone")] * 3
    assert len({id(error) for error in errors}) == 3  # each raises its own
    assert len(queries.asked) == 1


async def test_an_error_that_nobody_foresaw_reaches_its_callers_and_ends_nothing_else(
    queries: _Queries, callers: _Callers
) -> None:
    queries.poison["x"] = ZeroDivisionError("oops")
    queries.go.set()
    await callers.ask("x", "a")
    got = dict(callers.got)
    assert got["a"] == "A"
    error = got["x"]
    assert isinstance(error, Exception)
    assert isinstance(error.__cause__, ZeroDivisionError)
    await callers.ask("b")
    assert callers.got[-1] == ("b", "B")


async def test_statistics_tell_how_many_share_a_query(
    queries: _Queries, callers: _Callers, lookup: Lookup[str]
) -> None:
    await callers.ask("a", "b", "b")
    state = lookup.statistics()
    assert (state.waiting, state.queries, state.keys) == (3, 1, 2)
    queries.go.set()
    await wait_all_tasks_blocked()
    state = lookup.statistics()
    assert (state.waiting, state.queries, state.keys) == (0, 1, 2)


# -- over a database ---------------------------------------------------------------------------------------------------


def _over(database: Database, column: str = "report_path") -> FetchMany[str]:
    async def find(keys: Sequence[str]) -> Mapping[str, str]:
        marks = ", ".join("?" * len(keys))
        sql = f"SELECT user_id, {column} FROM user_reports WHERE user_id IN ({marks})"
        return {str(user_id): str(path) for user_id, path in await database.fetch(sql, keys)}

    return find


async def _add(database: Database, *users: str) -> None:
    for user in users:
        await database.execute("INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)", (user, f"{user}.pdf"))


async def _until_nobody_waits(lookup: Lookup[str]) -> None:
    with trio.fail_after(30):
        while lookup.statistics().waiting:  # noqa: ASYNC110 - what changes it has no event for us
            await trio.sleep(0.01)


async def test_a_thousand_look_ups_at_once_take_few_queries(database: Database) -> None:
    await _add(database, "u1", "u2")
    async with open_lookup(_over(database)) as lookup, trio.open_nursery() as nursery:
        callers = _Callers(nursery, lookup)
        await callers.ask(*(f"u{number % 300}" for number in range(1000)))
        await _until_nobody_waits(lookup)
        assert lookup.statistics().queries <= 12
    assert len(callers.got) == 1000
    assert {value for _, value in callers.got} == {None, "u1.pdf", "u2.pdf"}


async def test_a_key_that_the_database_cannot_be_asked_for_fails_alone(database: Database) -> None:
    await _add(database, "a", "b")
    async with open_lookup(_over(database)) as lookup, trio.open_nursery() as nursery:
        callers = _Callers(nursery, lookup)
        await callers.ask("a", "\ud800", "b", "c")
        await _until_nobody_waits(lookup)
    got = dict(callers.got)
    assert isinstance(got.pop("\ud800"), Exception)
    assert got == {"a": "a.pdf", "b": "b.pdf", "c": None}


async def test_the_statement_ends_in_the_database_with_its_last_caller(database: Database) -> None:
    endless = "SLEEP(600)"
    if database.dialect == "sqlite":
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        endless = f"({numbers} SELECT count(*) FROM n)"
    await _add(database, "a", "b")
    async with open_lookup(_over(database, endless)) as lookup, trio.open_nursery() as nursery:
        callers = _Callers(nursery, lookup)
        first, second = await callers.ask("a", "b")
        first.cancel()
        await wait_all_tasks_blocked()
        assert database.statistics().killed == 0
        second.cancel()
        with trio.fail_after(30):
            while database.statistics().killed == 0:  # noqa: ASYNC110 - what changes it has no event for us
                await trio.sleep(0.01)
    state = database.statistics()
    assert (state.killed, state.idle) == (1, state.open)


async def test_a_look_up_sees_what_was_committed_before_it(database: Database) -> None:
    async with open_lookup(_over(database)) as lookup:
        for number in range(20):
            assert await lookup.get(f"u{number}") is None
            await _add(database, f"u{number}")
            assert await lookup.get(f"u{number}") == f"u{number}.pdf"


async def test_where_every_key_is_refused_the_query_is_not_split_for_ever() -> None:
    asked = 0

    async def refuse(keys: Sequence[str]) -> Mapping[str, str]:
        nonlocal asked
        asked += 1
        raise QueryFailed("no such table")

    async def get(key: str) -> None:
        with pytest.raises(QueryFailed):
            await lookup.get(key)

    async with open_lookup(refuse) as lookup, trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(get, str(number))
    assert asked < 200  # else it is nearly 400


async def test_a_query_for_many_bears_the_request_of_none() -> None:
    seen: list[object] = []

    async def fetch(keys: Sequence[str]) -> Mapping[str, str]:
        seen.append(current_request.get(None))
        return {}

    async with open_lookup(fetch) as lookup:
        token = current_request.set(RequestScope("a"))
        await lookup.get("key")
        current_request.reset(token)
    assert seen == [None]
