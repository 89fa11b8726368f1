"""The instances on one database: who is there, who died, and what an outage must not make of that."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from app.errors import DatabaseUnavailable, StartError
from app.settings import DatabaseSettings
from app.storage.database import Database
from app.storage.instances import BEAT_SECONDS, DEAD_SECONDS, Instances, open_instances
from app.storage.migrate import migrate
from tests.conftest import open_migrated
from tests.mariadb import running_mariadb
from tests.storage.immediate import Immediate, as_database

_OUTAGE = 6 * DEAD_SECONDS
_LATEST = DEAD_SECONDS + 2 * BEAT_SECONDS


@pytest.fixture
def raw(sqlite_settings: DatabaseSettings) -> Iterator[sqlite3.Connection]:
    migrate(sqlite_settings)
    with closing(sqlite3.connect(sqlite_settings.path, isolation_level=None)) as raw:
        yield raw


def _there(raw: sqlite3.Connection) -> set[str]:
    return {id for (id,) in raw.execute("SELECT id FROM instances")}


class _Graves:
    """Who was found dead by an instance, and when."""

    def __init__(self, instances: Instances) -> None:
        self.found: dict[str, float] = {}
        instances.when_dead(self._note)

    async def _note(self, id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.found[id] = trio.current_time()


# -- on each database --------------------------------------------------------------------------------------------------


async def test_an_instance_is_there_while_it_runs(database: Database) -> None:
    async with open_instances(database) as one, open_instances(database) as other:
        assert len(one.id) == 32
        assert int(one.id, 16) != int(other.id, 16)
        assert await one.is_alive(one.id)
        assert await one.is_alive(other.id)
        assert not await one.is_alive("0" * 32)
    assert await database.fetch("SELECT id FROM instances") == []


async def test_one_that_died_is_found_by_others_and_removed(database: Database) -> None:
    await database.execute("INSERT INTO instances (id, beat) VALUES (?, ?)", ("dead", 7))
    async with (
        open_instances(database, beat_seconds=0.05, dead_seconds=0.5) as one,
        open_instances(database, beat_seconds=0.05, dead_seconds=0.5) as other,
    ):
        graves = [_Graves(one), _Graves(other)]
        with trio.fail_after(30):
            while await database.fetch("SELECT id FROM instances WHERE id = ?", ("dead",)):  # noqa: ASYNC110 - likewise
                await trio.sleep(0.01)
        # Whoever is first may have removed the row before the other one looks.
        assert graves[0].found.keys() | graves[1].found.keys() == {"dead"}
        assert not await one.is_alive("dead")
        assert await one.is_alive(other.id)


async def test_one_that_was_taken_for_dead_enters_again(database: Database) -> None:
    async with open_instances(database, beat_seconds=0.05) as instances:
        await database.execute("DELETE FROM instances")
        with trio.fail_after(30):
            while not await instances.is_alive(instances.id):  # noqa: ASYNC110 - a row has no event
                await trio.sleep(0.01)


# -- on virtual time ---------------------------------------------------------------------------------------------------


async def test_the_dead_are_found_in_time_and_the_living_never(
    raw: sqlite3.Connection, autojump_clock: MockClock
) -> None:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_instances(as_database(Immediate(raw)))) for _ in range(3)]
        graves = [_Graves(instances) for instances in opened]
        await trio.sleep(600)
        raw.execute("INSERT INTO instances (id, beat) VALUES ('dead', 1)")
        begun = trio.current_time()
        await trio.sleep(_LATEST)
        assert {id for grave in graves for id in grave.found} == {"dead"}
        for grave in graves:
            assert all(DEAD_SECONDS <= at - begun <= _LATEST for at in grave.found.values())
        assert _there(raw) == {instances.id for instances in opened}


async def test_an_outage_for_all_kills_nobody(raw: sqlite3.Connection, autojump_clock: MockClock) -> None:
    database = Immediate(raw)
    async with open_instances(as_database(database)) as one, open_instances(as_database(database)) as other:
        graves = [_Graves(one), _Graves(other)]
        await trio.sleep(DEAD_SECONDS)
        with capture_logs() as logs:
            database.away = True
            await trio.sleep(_OUTAGE)
            database.away = False
            await trio.sleep(_OUTAGE)
        assert [grave.found for grave in graves] == [{}, {}]
        assert [log["event"] for log in logs] == ["instances cannot be watched"] * 2 + [
            "instances are watched again"
        ] * 2


@pytest.mark.parametrize("fault", ["read_only", "silent"])
async def test_who_cannot_beat_does_not_judge(raw: sqlite3.Connection, autojump_clock: MockClock, fault: str) -> None:
    database = Immediate(raw)
    raw.execute("INSERT INTO instances (id, beat) VALUES ('other', 1)")
    async with open_instances(as_database(database)) as instances:
        graves = _Graves(instances)
        await trio.sleep(DEAD_SECONDS / 2)
        setattr(database, fault, True)
        await trio.sleep(_OUTAGE)
        setattr(database, fault, False)
        await trio.sleep(DEAD_SECONDS / 2)
        assert graves.found == {}
        await trio.sleep(_LATEST)
        assert set(graves.found) == {"other"}


async def test_who_is_cut_off_is_taken_for_dead_and_comes_back(
    raw: sqlite3.Connection, autojump_clock: MockClock
) -> None:
    here, there = Immediate(raw), Immediate(raw)
    async with open_instances(as_database(here)) as one, open_instances(as_database(there)) as other:
        graves = [_Graves(one), _Graves(other)]
        there.away = True
        await trio.sleep(_LATEST)
        assert set(graves[0].found) == {other.id}
        assert _there(raw) == {one.id}
        there.away = False
        with capture_logs() as logs:
            await trio.sleep(2 * BEAT_SECONDS)
        assert _there(raw) == {one.id, other.id}
        assert [log["event"] for log in logs if "dead" in log["event"]] == [
            "taken for dead by another instance; entered again"
        ]
        graves[0].found.clear()
        await trio.sleep(_OUTAGE)
        assert [grave.found for grave in graves] == [{}, {}]


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), ValueError("a mistake")])
async def test_what_fails_for_one_that_died_is_tried_again(
    raw: sqlite3.Connection, autojump_clock: MockClock, error: Exception
) -> None:
    failures = 3

    async def fail(id: str) -> None:
        nonlocal failures
        await trio.lowlevel.checkpoint()
        failures -= 1
        if failures >= 0:
            raise error

    raw.execute("INSERT INTO instances (id, beat) VALUES ('dead', 1)")
    async with open_instances(as_database(Immediate(raw))) as instances:
        instances.when_dead(fail)
        graves = _Graves(instances)
        with capture_logs() as logs:
            await trio.sleep(_LATEST)
            assert "dead" in _there(raw)
            assert graves.found == {}
            assert not await instances.is_alive("dead")
            await trio.sleep(4 * BEAT_SECONDS)
        assert _there(raw) == {instances.id}
        assert set(graves.found) == {"dead"}
        assert [log["event"] for log in logs].count("dead instance not put in order") == 3


async def test_while_one_is_put_in_order_beating_goes_on(raw: sqlite3.Connection, autojump_clock: MockClock) -> None:
    async def take_time(id: str) -> None:
        await trio.sleep(_OUTAGE)

    raw.execute("INSERT INTO instances (id, beat) VALUES ('dead', 1)")
    async with (
        open_instances(as_database(Immediate(raw))) as one,
        open_instances(as_database(Immediate(raw))) as other,
    ):
        one.when_dead(take_time)
        graves = _Graves(other)
        await trio.sleep(2 * _OUTAGE)
        assert set(graves.found) == {"dead"}


async def test_one_that_beats_again_while_it_is_put_in_order_stays(
    raw: sqlite3.Connection, autojump_clock: MockClock
) -> None:
    async def revive(id: str) -> None:
        await trio.lowlevel.checkpoint()
        raw.execute("UPDATE instances SET beat = beat + 1 WHERE id = 'dead'")

    raw.execute("INSERT INTO instances (id, beat) VALUES ('dead', 1)")
    async with open_instances(as_database(Immediate(raw))) as instances:
        instances.when_dead(revive)
        await trio.sleep(_LATEST)
        assert _there(raw) == {instances.id, "dead"}
        assert await instances.is_alive("dead")


# -- a server that goes away -------------------------------------------------------------------------------------------


async def test_while_mysql_is_away_nobody_dies() -> None:
    with running_mariadb() as server:
        async with (
            open_migrated(server.create_database()) as database,
            open_instances(database, beat_seconds=0.05, dead_seconds=1.0) as one,
            open_instances(database, beat_seconds=0.05, dead_seconds=1.0) as other,
        ):
            graves = [_Graves(one), _Graves(other)]
            begun = trio.current_time()
            await trio.to_thread.run_sync(server.stop)
            # For longer than it takes to be dead; and the tries to connect are spread over some time more.
            await trio.sleep_until(begun + 1.5)
            with capture_logs() as logs:
                await trio.to_thread.run_sync(server.start)
                with trio.fail_after(60):
                    while [log["event"] for log in logs].count("instances are watched again") < 2:  # noqa: ASYNC110
                        await trio.sleep(0.01)
            assert await one.is_alive(other.id)
            assert await other.is_alive(one.id)
            assert [grave.found for grave in graves] == [{}, {}]


# -- the beginning and the end -----------------------------------------------------------------------------------------


async def test_without_a_database_there_is_no_start(raw: sqlite3.Connection) -> None:
    database = Immediate(raw)
    database.away = True
    with pytest.raises(StartError, match="connection lost"):
        async with open_instances(as_database(database)):
            pass


async def test_whoever_is_cancelled_is_gone(raw: sqlite3.Connection) -> None:
    with trio.CancelScope() as scope:
        async with open_instances(as_database(Immediate(raw))) as instances:
            assert _there(raw) == {instances.id}
            scope.cancel()
            await trio.sleep_forever()
    assert _there(raw) == set()


@pytest.mark.parametrize("fault", ["away", "silent"])
async def test_an_end_without_a_database_leaves_the_row_to_the_others(
    raw: sqlite3.Connection, autojump_clock: MockClock, fault: str
) -> None:
    database = Immediate(raw)
    with capture_logs() as logs:
        async with open_instances(as_database(database)) as instances:
            setattr(database, fault, True)
    assert _there(raw) == {instances.id}
    assert logs[-1]["event"] == "instance not removed"
