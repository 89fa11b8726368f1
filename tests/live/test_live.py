"""Publishing and subscribing, on both databases, by one instance and by several."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

import app.live.events
import app.live.hub
from app.config.live import TopicSettings
from app.errors import DatabaseUnavailable, Forbidden, QueryFailed
from app.http.events import encode_event
from app.live.events import Burst, parse_id
from app.live.store import Store
from app.live.subscription import Position, Subscription
from app.live.upkeep import Upkeep
from app.settings import DatabaseSettings
from app.storage.database import Database
from tests.conftest import open_migrated
from tests.live.conftest import Client, Room, open_room
from tests.mariadb import MariaDb


async def until(enough: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(20):
        while not await enough():
            await trio.lowlevel.checkpoint()


def sequence_of(id: str) -> int:
    parsed = parse_id(id)
    assert parsed is not None
    return parsed.sequence


# -- what comes --------------------------------------------------------------------------------------------------------


async def test_who_subscribes_gets_what_comes_then(room: Room) -> None:
    await room.publish("a", "before")
    async with room.client("a") as first, room.client("a") as second, room.client("b") as other:
        ids = await room.publish("a", 1, {"x": None}, kind="tick")
        await room.publish("b", "b")
        for client in (first, second):
            event = await client.next()
            assert (str(event.id), event.type, event.data) == (ids[0], "tick", b"1")
            assert await client.read(1) == [{"x": None}]
        assert await other.read(1) == ["b"]


async def test_the_sequence_has_no_holes(room: Room) -> None:
    ids = await room.publish("a", *range(20))
    assert [sequence_of(id) for id in ids] == list(range(1, 21))
    assert len({id.partition("-")[0] for id in ids}) == 1


async def test_publishers_that_come_together_share_a_transaction(room: Room) -> None:
    ids: list[str] = []

    async def publish(number: int) -> None:
        ids.extend(await room.publish(f"topic-{number % 3}", number))

    async with room.client("topic-0") as client, trio.open_nursery() as nursery:
        for number in range(90):
            nursery.start_soon(publish, number)
        assert sorted(await client.read(30)) == list(range(0, 90, 3))
    assert len(set(ids)) == 90
    statistics = room.live.statistics().publisher
    assert statistics.published == 90
    assert statistics.transactions < 10


async def test_what_waits_is_taken_at_once(room: Room) -> None:
    async with room.client("a") as client:
        await room.publish("a", *range(50))
        assert await client.read(50) == list(range(50))
        assert client.batches == [50]


async def test_what_is_published_while_the_database_refuses_is_told_to_its_publishers_only(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Store.append
    failures: list[Exception] = [DatabaseUnavailable("away"), QueryFailed("no"), ZeroDivisionError("a bug")]

    async def failing(store: Store, *arguments: object) -> object:
        if failures:
            raise failures.pop(0)
        return await append(store, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Store, "append", failing)
    async with room.client("a") as client:
        for expected in (DatabaseUnavailable, QueryFailed, RuntimeError):
            with pytest.raises(expected):
                await room.publish("a", 0)
        await room.publish("a", 1)
        assert await client.read(1) == [1]


async def test_a_publisher_that_leaves_has_not_published(room: Room) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await room.publish("a", 0)
    await room.publish("a", 1)
    async with room.client("a", beginning=True) as client:
        assert await client.read(1) == [1]


async def test_a_publisher_that_leaves_during_the_commit_is_told_of_it_first(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Store.append
    begun, go_on = trio.Event(), trio.Event()
    ids: list[list[str]] = []

    async def slow(store: Store, *arguments: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await append(store, *arguments)

    async def publish() -> None:
        with scope:
            ids.append(await room.publish("a", 1))

    monkeypatch.setattr(Store, "append", slow)
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        await begun.wait()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ids == []
        go_on.set()
    assert len(ids) == 1


async def test_an_event_is_encoded_once_however_many_get_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []

    def encode(data: bytes, **fields: Any) -> bytes:
        encoded.append(data)
        return encode_event(data, **fields)

    monkeypatch.setattr(app.live.events, "encode_event", encode)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(room.client("a")) for _ in range(20)]
        await room.publish("a", *range(3))
        for client in clients:
            assert [(await client.next()).sse.count(b"id: ") for _ in range(3)] == [1, 1, 1]
    assert encoded == [b"0", b"1", b"2"]


async def test_to_one_that_waits_they_are_sent_at_once(room: Room) -> None:
    sent: list[list[bytes]] = []
    taken: list[list[bytes]] = []

    def send_now(burst: Burst) -> bool:
        sent.append([event.data for event in burst.events])
        assert burst.sse == b"".join(event.sse for event in burst.events)
        return len(sent) != 3

    async def read(subscription: Subscription) -> None:
        async with aclosing(subscription.batches()) as batches:
            async for batch in batches:
                taken.append([event.data for event in batch])

    await room.publish("a", 0)
    async with room.live.subscribe("a", Position(), send_now) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(read, subscription)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(1, 5):
            await room.publish("a", number)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert sent == [[b"1"], [b"2"], [b"3"], [b"4"]]
        assert taken == [[]]  # after the third, of which a rest had to be sent
        large = "x" * 60_000
        async with trio.open_nursery() as publishers:
            for _ in range(2):
                publishers.start_soon(room.publish, "a", large)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert sum(map(len, taken + sent[4:])) == 2
        nursery.cancel_scope.cancel()


# -- coming again ------------------------------------------------------------------------------------------------------


async def test_from_the_beginning_and_on(room: Room) -> None:
    await room.publish("a", *range(150))  # some pages
    async with room.client("a", beginning=True) as client:
        assert await client.read(150) == list(range(150))
        await room.publish("a", 150)
        assert await client.read(1) == [150]


async def test_who_comes_again_gets_what_was_missed(room: Room) -> None:
    ids = await room.publish("a", *range(10))
    async with room.client("a", ids[3]) as client:
        assert await client.read(6) == [4, 5, 6, 7, 8, 9]
        await room.publish("a", 10)
        assert await client.read(1) == [10]
    async with room.client("a", ids[-1]) as client:
        assert await client.read(1) == [10]


async def test_a_topic_that_nobody_has_published_to(room: Room) -> None:
    async with (
        room.client("a") as now,
        room.client("a", beginning=True) as beginning,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(expect_one, beginning)
        nursery.start_soon(expect_one, now)
        await room.publish("a", 1)


async def expect_one(client: Client) -> None:
    assert await client.read(1) == [1]


@pytest.mark.parametrize("again", ["at once", "anew"])
async def test_disconnecting_and_resuming_loses_and_doubles_nothing(database: Database, again: str) -> None:
    """While several instances publish, readers come and go at either of them."""
    total = 400
    chance = random.Random(7)

    async def publish(room: Room, part: int) -> None:
        for number in range(part, total, 4):
            await room.publish("a", number)
            done.append(number)

    async def read(rooms: list[Room]) -> None:
        got: list[int] = []
        last: str | None = None
        while len(got) < total:
            async with chance.choice(rooms).client("a", last, beginning=last is None) as client:
                for _ in range(min(chance.randint(1, 12), total - len(got))):
                    event = await client.next()
                    assert event.id is not None, event.data
                    got.append(int(event.data))
                    order.setdefault(event.sequence, int(event.data))
                    assert order[event.sequence] == int(event.data)
                    last = str(event.id)
            if again == "anew":
                await trio.lowlevel.checkpoint()
        assert sorted(got) == list(range(total))
        assert got == [order[sequence] for sequence in sorted(order)]
        resumed.append(len(got))

    done: list[int] = []
    order: dict[int, int] = {}
    resumed: list[int] = []
    async with open_room(database) as one, open_room(database) as two, trio.open_nursery() as nursery:
        for part in range(4):
            nursery.start_soon(publish, (one, two)[part % 2], part)
        for _ in range(6):
            nursery.start_soon(read, [one, two])
    assert len(done) == total
    assert resumed == [total] * 6


async def test_across_a_restart(database: Database) -> None:
    async with open_room(database) as room:
        ids = await room.publish("a", 1, 2)
    async with open_room(database) as room:
        later = await room.publish("a", 3)
        async with room.client("a", ids[0]) as client:
            assert await client.read(2) == [2, 3]
    assert sequence_of(later[0]) == 3


async def test_across_a_restart_of_the_database(mariadb: MariaDb, mysql_settings: DatabaseSettings) -> None:
    async with open_migrated(mysql_settings) as database, open_room(database) as room, room.client("a") as client:
        await room.publish("a", 0, 1)
        await trio.to_thread.run_sync(mariadb.stop)
        try:
            with pytest.raises(DatabaseUnavailable):
                await room.publish("a", "away")
        finally:
            await trio.to_thread.run_sync(mariadb.start)
        async with open_migrated(mysql_settings) as again, open_room(again) as other:
            await other.publish("a", 2, 3)
            assert await client.read(4) == [0, 1, 2, 3]


# -- what is missing ---------------------------------------------------------------------------------------------------


async def test_behind_the_horizon_is_a_gap(room: Room, database: Database) -> None:
    ids = await room.publish("a", *range(10))
    await database.execute("DELETE FROM live_events WHERE sequence <= 6")
    async with room.client("a", ids[1]) as client:
        assert await client.read(2) == [("gap", {"after": ids[1], "before": ids[6], "reason": "behind the horizon"}), 6]
    async with room.client("a", ids[5]) as client:
        assert await client.read(1) == [6]
    async with room.client("a", beginning=True) as client:
        assert await client.read(1) == [6]
    await database.execute("DELETE FROM live_events")
    async with room.client("a", ids[1]) as client:
        assert await client.read(1) == [("gap", {"after": ids[1], "before": None, "reason": "behind the horizon"})]
        await room.publish("a", 10)
        assert await client.read(1) == [10]


async def test_what_was_trimmed_before_it_was_seen_is_a_gap_also_in_a_new_topic(room: Room, database: Database) -> None:
    _, stored = await room.publish("b", 0, 1)
    async with room.client("a") as client:
        async with database.transaction() as transaction:
            await transaction.execute("UPDATE live_events SET topic = 'a' WHERE sequence = 2")
            await transaction.execute("UPDATE live_topics SET topic = 'a'")
        told = {"after": "0-0", "before": stored, "reason": "behind the horizon"}
        assert await client.read(2) == [("gap", told), 1]


async def test_a_database_that_is_set_back_is_a_gap(room: Room, database: Database) -> None:
    ids = await room.publish("a", *range(5))
    async with room.client("a") as client, room.client("a", ids[0]) as resumed:
        assert await resumed.read(4) == [1, 2, 3, 4]
        async with database.transaction() as transaction:
            await transaction.execute("DELETE FROM live_events WHERE sequence > 2")
            await transaction.execute("UPDATE live_topics SET sequence = 2")
        told = ("gap", {"after": ids[4], "before": None, "reason": "the database was set back"})
        for one in (client, resumed):
            assert await one.read(1) == [told]
        again = await room.publish("a", "again")
        assert again == [ids[2]]
        for one in (client, resumed):
            assert await one.read(1) == ["again"]


async def test_from_before_the_first_event(room: Room, database: Database) -> None:
    async with room.client("a") as client:
        before = client.subscription.position
        assert str(before) == "0-0"
    ids = await room.publish("a", 0, 1)
    async with room.client("a", str(before)) as client:
        assert await client.read(2) == [0, 1]
    await database.execute("DELETE FROM live_events WHERE sequence = 1")
    async with room.client("a", str(before)) as client:
        told = {"after": "0-0", "before": ids[1], "reason": "behind the horizon"}
        assert await client.read(2) == [("gap", told), 1]


@pytest.mark.parametrize("after", ["0badc0de-3", "nonsense", "{epoch}-99"])
async def test_an_id_that_never_was_is_a_gap_and_then_all_there_is(room: Room, after: str) -> None:
    ids = await room.publish("a", 0, 1)
    after = after.format(epoch=ids[0].partition("-")[0])
    async with room.client("a", after) as client:
        ((kind, told), *events) = await client.read(3)
        assert (kind, told["after"], told["before"]) == ("gap", after, ids[0])
        assert events == [0, 1]


async def test_a_topic_that_was_forgotten_begins_another_epoch(room: Room, database: Database) -> None:
    ids = await room.publish("a", 0)
    async with room.client("a") as client:
        await database.execute("DELETE FROM live_events")
        await database.execute("DELETE FROM live_topics")
        later = await room.publish("a", 1)
        assert later[0].partition("-")[0] != ids[0].partition("-")[0]
        told, event = await client.read(2)
        assert told == ("gap", {"after": ids[0], "before": later[0], "reason": "another epoch"})
        assert event == 1
    async with room.client("a", ids[0]) as client:
        assert (await client.read(2))[1] == 1


async def test_histories_are_trimmed(database: Database) -> None:
    now = time.time()
    settings = {
        "count": TopicSettings(history_events=5),
        "bytes": TopicSettings(history_bytes=20),
        "age": TopicSettings(history_seconds=100),
    }
    async with open_room(database, settings) as room:
        for name in settings:
            await room.publish(name, *range(1000, 1010))
        upkeep = Upkeep(Store(database), room.live.settings_of, clock=lambda: now + 50)
        await upkeep.go_round()
        counts = await database.fetch("SELECT topic, COUNT(*) FROM live_events GROUP BY topic")
        assert sorted(counts, key=str) == [("age", 10), ("bytes", 5), ("count", 5)]
        upkeep = Upkeep(Store(database), room.live.settings_of, clock=lambda: now + 200)
        await upkeep.go_round()
        assert await database.fetch("SELECT topic FROM live_topics WHERE topic = 'age'") == [("age",)]
        upkeep = Upkeep(Store(database), room.live.settings_of, clock=lambda: now + 100_000)
        await upkeep.go_round()
        assert await database.fetch("SELECT topic FROM live_topics") == []


async def test_a_long_history_is_trimmed_while_it_grows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.live.upkeep._MOST_EVENTS", 50)
    async with open_room(database, {"a": TopicSettings(history_events=10)}) as room:
        await room.publish("a", *range(100))

        async def is_trimmed() -> bool:
            return not await database.fetch("SELECT 1 FROM live_events WHERE sequence <= 90")

        await until(is_trimmed)
        async with room.client("a", beginning=True) as client:
            assert await client.read(10) == list(range(90, 100))


# -- several instances -------------------------------------------------------------------------------------------------


async def test_what_another_instance_publishes_comes_soon(room: Room, database: Database) -> None:
    async with open_room(database) as other, room.client("a") as client:
        took: list[float] = []
        for number in range(20):
            await other.publish("a", number)
            begun = trio.current_time()
            assert await client.read(1) == [number]
            took.append(trio.current_time() - begun)
        assert sorted(took)[len(took) // 2] < 0.2


async def test_in_one_order_whoever_publishes(database: Database) -> None:
    async with open_room(database) as one, open_room(database) as two:
        async with one.client("a") as first, two.client("a") as second, trio.open_nursery() as nursery:
            for room in (one, two):
                for part in range(5):
                    nursery.start_soon(room.publish, "a", *range(part * 10, part * 10 + 10))
            seen = [[(await client.next()).sequence for _ in range(100)] for client in (first, second)]
        assert seen[0] == seen[1] == list(range(1, 101))


async def test_while_the_database_is_away_subscribers_stay(
    room: Room, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.live.hub, "_AWAY_SECONDS", 0.01)
    heads, failures = Store.heads, [DatabaseUnavailable("away")] * 3

    async def failing(store: Store, names: list[str]) -> object:
        if failures:
            raise failures.pop()
        return await heads(store, names)

    async with open_room(database) as other, room.client("a") as client:
        monkeypatch.setattr(Store, "heads", failing)
        await other.publish("a", 1)
        assert await client.read(1) == [1]
        assert failures == []


# -- derived topics ----------------------------------------------------------------------------------------------------

DERIVED = {
    "errors": TopicSettings(source="logs", steps=("where:level == error", "select:ts,msg")),
    "messages": TopicSettings(source="errors", steps=("select:msg",)),
    "copy": TopicSettings(source="logs"),
}


async def test_a_derived_topic_has_each_event_once_whoever_publishes(database: Database) -> None:
    async with open_room(database, DERIVED) as one, open_room(database, DERIVED) as two:
        async with one.client("errors") as errors, two.client("messages") as messages, one.client("copy") as copy:
            for room in (one, two):
                await room.publish("logs", {"level": "info", "ts": 1, "msg": "a"}, kind="log")
                await room.publish("logs", {"level": "error", "ts": 2, "msg": "b", "x": [1]}, kind="log")
                await room.publish("logs", "no object", {"other": 1})
            event = await errors.next()
            assert (event.type, event.data) == ("log", b'{"ts":2,"msg":"b"}')
            assert await errors.read(1) == [{"ts": 2, "msg": "b"}]
            assert await messages.read(2) == [{"msg": "b"}] * 2
            assert len(await copy.read(8)) == 8
        rows = await database.fetch("SELECT topic, sequence FROM live_topics")
        assert sorted(rows, key=str) == [("copy", 8), ("errors", 2), ("logs", 8), ("messages", 2)]


async def test_what_is_derived_is_not_published_to(database: Database) -> None:
    async with open_room(database, DERIVED) as room:
        with pytest.raises(Forbidden, match="derived from 'logs'"):
            await room.publish("errors", {})
