"""Two tasks speak on one WebSocket: one after the other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import trio

from app.config.live import TopicSettings
from app.live.sockets import POLICY, converse
from app.live.subscription import Position
from app.storage.database import Database
from tests.live.conftest import Room, open_room

_SAID = 20


class _Socket:
    """One whose messages take a while to leave."""

    def __init__(self, says: int) -> None:
        self._left = says
        self._speaks = False
        self.sent: list[str] = []
        self.closed: int | None = None

    async def send(self, data: str) -> None:
        with self._alone():
            await trio.sleep(0.001)
            self.sent.append(data)

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        if not self._left:
            await trio.sleep_forever()
        self._left -= 1
        return '{"data": 1}'

    async def close(self, code: int, reason: str = "") -> None:
        with self._alone():
            await trio.sleep(0.001)
            self.closed = code

    @contextmanager
    def _alone(self) -> Generator[None]:
        assert not self._speaks, "in the middle of another message"
        assert self.closed is None, "behind the end"
        self._speaks = True
        yield
        self._speaks = False  # not where it is cut: then nothing may follow


async def _conversation(room: Room, socket: _Socket, *, until: int) -> None:
    async with room.live.subscribe("a", Position(None, False)) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(converse, room.live, "a", subscription, socket, 60)
        for number in range(_SAID):
            await room.publish("a", number)
        with trio.fail_after(20):
            while len(socket.sent) < until and socket.closed is None:
                await trio.lowlevel.checkpoint()
        if socket.closed is None:
            nursery.cancel_scope.cancel()


async def test_answers_and_events_are_each_whole(database: Database) -> None:
    socket = _Socket(_SAID)
    async with open_room(database, {"a": TopicSettings(publish_by_websocket=True)}) as room:
        await _conversation(room, socket, until=3 * _SAID)
    assert sum('"published"' in one for one in socket.sent) == _SAID
    assert sum('"event"' in one for one in socket.sent) == 2 * _SAID


async def test_the_last_word_cuts_no_event(database: Database) -> None:
    socket = _Socket(1)
    async with open_room(database) as room:
        await _conversation(room, socket, until=10**6)
    assert socket.closed == POLICY
