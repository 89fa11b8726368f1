"""A request that is sent again is not done again."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from app.errors import DatabaseUnavailable, IdempotencyConflict, IdempotencyMismatch
from app.settings import DatabaseSettings
from app.storage.database import Database
from app.storage.idempotency import MAX_BODY, IdempotencyKeys, KeptAnswer
from app.storage.instances import Instances, open_instances
from app.storage.migrate import migrate
from tests.storage.conftest import Clock
from tests.storage.immediate import Immediate, as_database

_TTL = 3600.0
_ROUTE, _KEY, _REQUEST = "/api/process", "key", "a" * 64
_ANSWER = KeptAnswer(202, ((b"location", b"/api/jobs/1"), (b"x-\xff", b"\xfe\x00")), bytes(range(256)))


@pytest.fixture
async def instances(database: Database) -> AsyncIterator[Instances]:
    async with open_instances(database) as opened:
        yield opened


@pytest.fixture
async def another(database: Database) -> AsyncIterator[Instances]:
    async with open_instances(database) as opened:
        yield opened


@pytest.fixture
def keys(database: Database, instances: Instances, clock: Clock) -> IdempotencyKeys:
    return IdempotencyKeys(database, instances, _TTL, clock=clock)


@pytest.fixture
def elsewhere(database: Database, another: Instances, clock: Clock) -> IdempotencyKeys:
    """The keys in another process."""
    return IdempotencyKeys(database, another, _TTL, clock=clock)


async def _ask(keys: IdempotencyKeys, request: str = _REQUEST, *, route: str = _ROUTE, key: str = _KEY) -> bool:
    """Whether the request was done now; otherwise it got the answer that was kept."""
    async with keys.claim(route, key, request) as claim:
        if claim.kept is not None:
            assert claim.kept == _ANSWER
            return False
        assert await claim.keep(_ANSWER)
        return True


async def _rows(database: Database) -> int:
    [(rows,)] = await database.fetch("SELECT count(*) FROM idempotency_keys")
    assert isinstance(rows, int)
    return rows


async def test_the_same_request_gets_the_same_answer(keys: IdempotencyKeys, elsewhere: IdempotencyKeys) -> None:
    assert await _ask(keys)
    assert not await _ask(keys)
    assert not await _ask(elsewhere)


async def test_a_key_belongs_to_a_route_and_is_told_exactly(keys: IdempotencyKeys) -> None:
    for route, key in ((_ROUTE, "key"), (_ROUTE, "KEY"), ("/api/other", "key"), (f"{_ROUTE}k", "ey")):
        assert await _ask(keys, route=route, key=key)


async def test_another_request_with_the_key_is_refused(keys: IdempotencyKeys, elsewhere: IdempotencyKeys) -> None:
    assert await _ask(keys)
    for place in (keys, elsewhere):
        with pytest.raises(IdempotencyMismatch):
            await _ask(place, "b" * 64)


async def test_while_it_is_answered_the_key_is_refused(keys: IdempotencyKeys, elsewhere: IdempotencyKeys) -> None:
    async with keys.claim(_ROUTE, _KEY, _REQUEST) as claim:
        for place in (keys, elsewhere):
            with pytest.raises(IdempotencyConflict) as caught:
                await _ask(place)
            assert caught.value.retry_after == 1
            with pytest.raises(IdempotencyMismatch):
                await _ask(place, "b" * 64)
        assert await claim.keep(_ANSWER)
    assert not await _ask(elsewhere)


async def test_of_many_at_once_one_is_done(keys: IdempotencyKeys, elsewhere: IdempotencyKeys) -> None:
    done = refused = 0

    async def ask(place: IdempotencyKeys) -> None:
        nonlocal done, refused
        try:
            async with place.claim(_ROUTE, _KEY, _REQUEST) as claim:
                if claim.kept is None:
                    done += 1
                    await claim.keep(_ANSWER)
        except IdempotencyConflict:
            refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask, keys)
            nursery.start_soon(ask, elsewhere)
    assert done == 1
    assert refused < 40
    assert not await _ask(keys)


async def test_many_repeats_at_once_all_get_the_answer(keys: IdempotencyKeys) -> None:
    async def repeat() -> None:
        assert not await _ask(keys)

    assert await _ask(keys)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(repeat)


async def test_who_fails_gives_the_key_up(
    database: Database, keys: IdempotencyKeys, elsewhere: IdempotencyKeys
) -> None:
    with pytest.raises(ValueError, match="a mistake"):
        async with keys.claim(_ROUTE, _KEY, _REQUEST):
            raise ValueError("a mistake")
    assert await _rows(database) == 0
    assert await _ask(elsewhere, "b" * 64)


async def test_who_is_cancelled_gives_the_key_up(database: Database, keys: IdempotencyKeys) -> None:
    with trio.CancelScope() as scope:
        async with keys.claim(_ROUTE, _KEY, _REQUEST):
            scope.cancel()
            await trio.sleep_forever()
    assert await _rows(database) == 0
    assert await _ask(keys)


async def test_what_is_done_is_kept_though_its_client_has_left(keys: IdempotencyKeys) -> None:
    with trio.CancelScope() as scope:
        async with keys.claim(_ROUTE, _KEY, _REQUEST) as claim:
            scope.cancel()
            assert await claim.keep(_ANSWER)
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not await _ask(keys)


async def test_wherever_a_claim_is_cancelled_it_does_not_keep_the_key(
    database: Database, keys: IdempotencyKeys, elsewhere: IdempotencyKeys
) -> None:
    """After each number of turns of the event loop, until the claim is there before it is cancelled."""
    entered = trio.Event()

    async def ask() -> None:
        async with keys.claim(_ROUTE, _KEY, _REQUEST):
            entered.set()
            await trio.sleep_forever()

    turns = 0
    while not entered.is_set():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for _ in range(turns := turns + 3):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await _rows(database) == 0
    assert await _ask(elsewhere)


async def test_an_answer_that_is_too_large_is_not_kept(database: Database, keys: IdempotencyKeys) -> None:
    for size, kept in ((MAX_BODY + 1, False), (MAX_BODY, True)):
        async with keys.claim(_ROUTE, _KEY, _REQUEST) as claim:
            assert await claim.keep(KeptAnswer(200, (), b"x" * size)) is kept
        assert await _rows(database) == kept


# -- expiry ------------------------------------------------------------------------------------------------------------


async def test_an_expired_answer_is_forgotten(keys: IdempotencyKeys, elsewhere: IdempotencyKeys, clock: Clock) -> None:
    assert await _ask(keys)
    clock.now += _TTL - 1
    assert not await _ask(keys)
    clock.now += 1
    assert await _ask(elsewhere, "b" * 64)


async def test_who_is_being_answered_does_not_expire(
    keys: IdempotencyKeys, elsewhere: IdempotencyKeys, clock: Clock
) -> None:
    async with keys.claim(_ROUTE, _KEY, _REQUEST) as claim:
        clock.now += 2 * _TTL
        with pytest.raises(IdempotencyConflict):
            await _ask(elsewhere)
        assert await claim.keep(_ANSWER)
    assert not await _ask(elsewhere)


async def test_the_expired_are_removed_faster_than_they_come(
    database: Database, keys: IdempotencyKeys, clock: Clock
) -> None:
    for number in range(60):
        assert await _ask(keys, key=f"old {number}")
    clock.now += _TTL
    for number in range(50):
        assert await _ask(keys, key=f"new {number}")
    assert await _rows(database) <= 50


# -- who died ----------------------------------------------------------------------------------------------------------


async def _claim_of(database: Database, keys: IdempotencyKeys, owner: str) -> None:
    """As if the key's request were being answered by that instance."""
    async with keys.claim(_ROUTE, _KEY, _REQUEST) as claim:
        await claim.keep(_ANSWER)
    await database.execute("UPDATE idempotency_keys SET status = NULL, owner = ?", (owner,))


async def test_a_claim_of_one_that_is_not_there_is_free(database: Database, keys: IdempotencyKeys) -> None:
    await _claim_of(database, keys, "gone")
    assert await _ask(keys, "b" * 64)


async def test_a_claim_of_ours_that_nobody_here_has_is_free_here(
    database: Database, instances: Instances, keys: IdempotencyKeys, elsewhere: IdempotencyKeys
) -> None:
    """Such as one whose insertion was taken for lost with its connection."""
    await _claim_of(database, keys, instances.id)
    with pytest.raises(IdempotencyConflict):
        await _ask(elsewhere)
    assert await _ask(keys, "b" * 64)


async def test_when_an_instance_dies_its_claims_are_removed_and_its_answers_stay(
    database: Database, clock: Clock
) -> None:
    await database.execute("INSERT INTO instances (id, beat) VALUES (?, ?)", ("dead", 1))
    async with open_instances(database, beat_seconds=0.05, dead_seconds=0.5) as instances:
        keys = IdempotencyKeys(database, instances, _TTL, clock=clock)
        await _claim_of(database, keys, "dead")
        assert await _ask(keys, key="answered")
        await database.execute("UPDATE idempotency_keys SET owner = ?", ("dead",))
        with pytest.raises(IdempotencyConflict):
            await _ask(keys)
        with trio.fail_after(30):
            while await _rows(database) > 1:  # noqa: ASYNC110 - a row has no event
                await trio.sleep(0.01)
        assert not await _ask(keys, key="answered")


async def test_who_was_taken_for_dead_cannot_keep_an_answer(
    database: Database, keys: IdempotencyKeys, elsewhere: IdempotencyKeys
) -> None:
    async with keys.claim(_ROUTE, _KEY, _REQUEST) as claim:
        await database.execute("DELETE FROM idempotency_keys")
        async with elsewhere.claim(_ROUTE, _KEY, _REQUEST) as other:
            assert not await claim.keep(_ANSWER)
            assert await other.keep(_ANSWER)
    assert not await _ask(keys)


# -- an outage, on virtual time ----------------------------------------------------------------------------------------


@pytest.fixture
def raw(sqlite_settings: DatabaseSettings) -> Iterator[sqlite3.Connection]:
    migrate(sqlite_settings)
    with closing(sqlite3.connect(sqlite_settings.path, isolation_level=None)) as raw:
        yield raw


@asynccontextmanager
async def _two(raw: sqlite3.Connection) -> AsyncGenerator[tuple[Immediate, IdempotencyKeys, IdempotencyKeys]]:
    """Keys whose database goes away, and those of an instance whose own does not."""
    database = Immediate(raw)
    async with (
        open_instances(as_database(database)) as one,
        open_instances(as_database(Immediate(raw))) as other,
    ):
        keys = IdempotencyKeys(as_database(database), one, _TTL)
        yield database, keys, IdempotencyKeys(as_database(Immediate(raw)), other, _TTL)


@pytest.mark.parametrize("fault", ["away", "silent"])
async def test_a_key_that_could_not_be_given_up_is_given_up_with_the_next_claim(
    raw: sqlite3.Connection, autojump_clock: MockClock, fault: str
) -> None:
    async with _two(raw) as (database, keys, elsewhere):
        with trio.CancelScope() as scope:
            async with keys.claim(_ROUTE, _KEY, _REQUEST):
                setattr(database, fault, True)
                scope.cancel()
        setattr(database, fault, False)
        with pytest.raises(IdempotencyConflict):
            await _ask(elsewhere)
        assert await _ask(keys, key="next")
        assert await _ask(elsewhere)


async def test_a_key_that_could_not_be_given_up_is_free_where_it_was(
    raw: sqlite3.Connection, autojump_clock: MockClock
) -> None:
    async with _two(raw) as (database, keys, _):
        async with keys.claim(_ROUTE, _KEY, _REQUEST):
            database.away = True
        with pytest.raises(DatabaseUnavailable):
            await _ask(keys)
        database.away = False
        assert await _ask(keys, "b" * 64)


@pytest.mark.parametrize("fault", ["away", "silent"])
async def test_an_answer_that_cannot_be_kept_now_is_an_error(
    raw: sqlite3.Connection, autojump_clock: MockClock, fault: str
) -> None:
    async with _two(raw) as (database, keys, _):
        with pytest.raises(DatabaseUnavailable):
            async with keys.claim(_ROUTE, _KEY, _REQUEST) as claim:
                setattr(database, fault, True)
                await claim.keep(_ANSWER)


async def test_an_insertion_that_is_cancelled_leaves_no_claim(raw: sqlite3.Connection) -> None:
    async with _two(raw) as (database, keys, elsewhere):
        async with trio.open_nursery() as nursery:
            database.lost = "INSERT INTO idempotency_keys"
            nursery.start_soon(_ask, keys)
            await wait_all_tasks_blocked()
            assert raw.execute("SELECT count(*) FROM idempotency_keys").fetchone() == (1,)
            nursery.cancel_scope.cancel()
        assert await _ask(elsewhere)
