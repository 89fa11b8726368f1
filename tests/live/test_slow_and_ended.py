"""Subscribers that are slow, too many, or told to leave. What becomes of them does not depend on the database."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import app.live.hub
from app.config.live import LiveSettings, TopicSettings
from app.errors import BadRequest, Overloaded, ShuttingDown, StartError
from app.live.subscription import Position
from app.live.topic import Topic
from app.settings import DatabaseSettings
from app.storage.database import Database
from tests.live.conftest import Room, open_room

SMALL = TopicSettings(buffer_events=3)


@pytest.fixture
def database_settings(sqlite_settings: DatabaseSettings) -> DatabaseSettings:
    return sqlite_settings


# -- who is slow -------------------------------------------------------------------------------------------------------


async def test_the_oldest_are_dropped_and_that_is_told(database: Database) -> None:
    async with open_room(database, {"a": SMALL}) as room, room.client("a") as client, room.client("a") as other:
        ids = await room.publish("a", *range(3))
        assert await other.read(3) == [0, 1, 2]
        ids += await room.publish("a", *range(3, 8))
        told, *events = await client.read(4)
        assert told == ("lagged", {"dropped": 5, "first": ids[0], "last": ids[4], "reason": "dropped"})
        assert events == [5, 6, 7]


async def test_coalescing_by_a_key(database: Database) -> None:
    topic = TopicSettings("coalesce", "k")
    async with open_room(database, {"a": topic}) as room, room.client("a") as client:
        await room.publish("a", {"k": 1, "v": 1}, {"k": 2, "v": 2}, {"k": 1, "v": 3})
        told, *events = await client.read(3)
        assert (told[0], told[1]["dropped"], told[1]["reason"]) == ("lagged", 1, "coalesced")
        assert events == [{"k": 2, "v": 2}, {"k": 1, "v": 3}]


async def test_what_is_committed_is_published_whatever_becomes_of_it_here(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise ZeroDivisionError("a bug")

    async with open_room(database) as room, room.client("a") as client:
        with monkeypatch.context() as patch:
            patch.setattr(Topic, "offer", fail)
            assert len(await room.publish("a", 1)) == 1
        assert await client.read(1) == [1]


async def test_who_is_disconnected_has_got_all_up_to_there_and_resumes(database: Database) -> None:
    topic = TopicSettings("disconnect", buffer_events=3)
    async with open_room(database, {"a": topic}) as room:
        async with room.client("a") as client:
            ids = await room.publish("a", *range(8))
            assert await client.read(3) == [0, 1, 2]
            with pytest.raises(StopAsyncIteration):
                await client.next()
            assert client.subscription.ended == "slow"
        async with room.client("a", ids[2]) as client:
            assert await client.read(5) == [3, 4, 5, 6, 7]


async def test_who_must_not_lose_anything_holds_publishers_up(database: Database) -> None:
    published: list[int] = []
    third = trio.Event()

    async def publish(room: Room) -> None:
        for number in range(12):
            await room.publish("a", number)
            published.append(number)
            if number == 2:
                third.set()

    topic = TopicSettings("block", buffer_events=3)
    async with open_room(database, {"a": topic}) as room, room.client("a") as client, trio.open_nursery() as nursery:
        nursery.start_soon(publish, room)
        await third.wait()
        with trio.move_on_after(0.2) as waiting:
            await room.publish("a", "late")
        assert waiting.cancelled_caught
        assert published == [0, 1, 2]
        assert await client.read(12) == list(range(12))
    assert published == list(range(12))


async def test_one_that_blocks_loses_nothing_of_what_others_publish(database: Database) -> None:
    topic = TopicSettings("block", buffer_events=3)
    async with (
        open_room(database, {"a": topic}) as room,
        open_room(database, {"a": topic}) as other,
        room.client("a") as client,
    ):
        await other.publish("a", *range(30))
        assert await client.read(30) == list(range(30))


async def test_a_blocked_publisher_goes_on_when_the_one_that_blocks_leaves(database: Database) -> None:
    topic = TopicSettings("block", buffer_events=1)
    async with open_room(database, {"a": topic}) as room, trio.open_nursery() as nursery:
        async with room.client("a"):
            await room.publish("a", 1)
            nursery.start_soon(room.publish, "a", 2)
            await trio.testing.wait_all_tasks_blocked(0.01)
        async with room.client("a", beginning=True) as client:
            assert await client.read(2) == [1, 2]


# -- limits and the end ------------------------------------------------------------------------------------------------


async def test_there_are_so_many_subscribers(database: Database) -> None:
    settings = LiveSettings(max_subscribers=3, topics={"a": TopicSettings(max_subscribers=2)})
    async with open_room(database, settings) as room:
        async with room.client("a"), room.client("a"):
            with pytest.raises(Overloaded):
                async with room.client("a"):
                    pass
            async with room.client("b"):
                with pytest.raises(Overloaded):
                    async with room.client("c"):
                        pass
        async with room.client("a"):
            pass
        assert room.live.statistics().hub.subscribers == 0


async def test_a_drain_ends_all_of_them_and_takes_no_more(room: Room) -> None:
    async with room.client("a") as client, room.client("a") as other:
        await room.publish("a", 1)
        room.gate.start()
        await trio.testing.wait_all_tasks_blocked(0.01)
        for one in (client, other):
            assert await one.read(1) == [1]
            with pytest.raises(StopAsyncIteration):
                await one.next()
            assert one.subscription.ended == "shutdown"
        with pytest.raises(ShuttingDown):
            async with room.client("a"):
                pass


async def test_a_sign_of_life_in_silence(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.live.hub, "BEAT_SECONDS", 0.03)
    async with open_room(database) as room, room.live.subscribe("a", Position()) as subscription:
        batches = subscription.batches()
        with trio.fail_after(20):
            assert [list(await anext(batches)) for _ in range(2)] == [[], []]
        await batches.aclose()


async def test_a_name_that_is_none(room: Room) -> None:
    with pytest.raises(BadRequest):
        await room.publish("a b", 1)
    with pytest.raises(BadRequest):
        room.live.subscribe("a b", Position())


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (("upper",), "step 1, 'upper', is none of drop, rename, select, where"),
        (("select:a", "head:3"), "step 2, 'head'"),
        (("where:x",), "step 1, where: 'x' is not FIELD OP VALUE"),
    ],
)
async def test_steps_that_are_none_stop_the_start(database: Database, steps: tuple[str, ...], told: str) -> None:
    with pytest.raises(StartError) as caught:
        async with open_room(database, {"a": TopicSettings(source="b", steps=steps)}):
            pass
    assert caught.value.lines[0].startswith(f"SLUICE_CONFIG: live.topics.a.steps: {told}")
