"""A thousand resumes under load, while the database restarts: each event comes once."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
import trio

from app.errors import SluiceError
from tests.conftest import open_migrated
from tests.live.conftest import Room, open_room
from tests.mariadb import MariaDb, running_mariadb

_SUBSCRIBERS, _RESUMES = 20, 50
_RESTART_AT = _SUBSCRIBERS * _RESUMES // 3
_SECONDS = 120


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    """A server of our own, which others do not miss while it is away."""
    with running_mariadb() as server:
        yield server


class _Load:
    """resumes: of all subscribers. failed: calls, while the database was away. published: acknowledged ids."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.resumes = self.failed = 0
        self.published: list[str] = []
        self.enough = False
        self.restart = trio.Event()

    async def publish(self) -> None:
        number = 0
        while not self.enough:
            try:
                self.published += await self.room.publish("a", number)
            except SluiceError:
                self.failed += 1
                await trio.sleep(0.02)
            number += 1
            await trio.sleep(0.001)

    async def resume(self, chance: Random, seen: list[str]) -> None:
        """Takes some events and leaves, again and again."""
        done = 0
        while done < _RESUMES:
            if await self._take(seen, chance.randint(1, 5)):
                done += 1
                self.resumes += 1
                if self.resumes == _RESTART_AT:
                    self.restart.set()

    async def read_up_to(self, last: str, seen: list[str]) -> None:
        while seen[-1] != last:
            await self._take(seen, 1)

    async def _take(self, seen: list[str], count: int) -> bool:
        try:
            after = seen[-1] if seen else None
            async with self.room.client("a", after, beginning=after is None) as client:
                for _ in range(count):
                    event = await client.next()
                    assert event.id is not None, (event.type, event.data)  # a notice: something would be lost
                    seen.append(str(event.id))
        except SluiceError:
            self.failed += 1
            await trio.sleep(0.02)
            return False
        return True


async def test_a_thousand_resumes_lose_and_double_nothing(server: MariaDb) -> None:
    seen: list[list[str]] = [[] for _ in range(_SUBSCRIBERS)]
    async with open_migrated(server.create_database()) as database, open_room(database) as room:
        load = _Load(room)

        async def restart() -> None:
            await load.restart.wait()
            await trio.to_thread.run_sync(server.stop)
            await trio.to_thread.run_sync(server.start)

        async def subscribe() -> None:
            async with trio.open_nursery() as subscribers:
                for number, ids in enumerate(seen):
                    subscribers.start_soon(load.resume, Random(number), ids)
                subscribers.start_soon(restart)
            load.enough = True

        with trio.fail_after(_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.publish)
                nursery.start_soon(subscribe)
            async with trio.open_nursery() as nursery:
                for ids in seen:
                    nursery.start_soon(load.read_up_to, load.published[-1], ids)
    assert load.resumes == _SUBSCRIBERS * _RESUMES
    assert load.failed  # the database was away, and somebody has noticed
    epoch = load.published[0].partition("-")[0]
    all_there_are = [f"{epoch}-{number}" for number in range(1, len(seen[0]) + 1)]
    assert set(load.published) <= set(all_there_are)
    assert all(ids == all_there_are for ids in seen)
