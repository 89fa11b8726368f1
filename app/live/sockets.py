"""A subscription over a WebSocket, and publishing through it."""

from __future__ import annotations

from typing import Protocol

import msgspec
import trio

from app.errors import BadJson, DeadlineExceeded, SluiceError
from app.http.problems import content_of
from app.http.strict_json import decode_json
from app.live.service import Live
from app.live.subscription import Subscription, batches_of

# Come again, to this server or another; try again later; a policy (RFC 6455 7.4.1, and its registry).
RESTART, LATER, POLICY = 1012, 1013, 1008


class Socket(Protocol):
    """An open WebSocket. *Errors* of ``receive``: EOFError once its client has left."""

    async def send(self, data: str) -> None: ...
    async def receive(self) -> str | bytes: ...
    async def close(self, code: int, reason: str = "") -> None: ...


class _Said(msgspec.Struct):
    """What a client publishes. ref: comes back with the answer."""

    data: msgspec.Raw
    event: str | None = None
    ref: msgspec.Raw = msgspec.Raw(b"null")


_said = msgspec.json.Decoder(_Said)


async def converse(live: Live, topic: str, subscription: Subscription, socket: Socket, seconds: float) -> None:
    """Sends the topic's events, a message each, and takes what the client publishes, until either leaves.

    What a client publishes is ``{"event", "data", "ref"}``, answered in order by ``{"published": ID, "ref"}``, or
    ``{"problem": …, "ref"}``. Where that is not allowed, whoever speaks is closed. seconds: that publishing may take.
    """

    speaking = trio.Lock()  # two tasks do: a message is whole, and so is the last one before the end

    async def say(message: str) -> None:
        async with speaking:
            await socket.send(message)

    async def close(code: int, reason: str) -> None:
        async with speaking:
            await socket.close(code, reason)

    async def listen() -> None:
        try:
            while True:
                said = await socket.receive()
                if not live.settings_of(topic).publish_by_websocket:
                    await close(POLICY, "nothing is published to this topic by WebSocket")
                    break
                await say(await _publish(live, topic, said, seconds))
        except EOFError:
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        async with batches_of(subscription) as batches:
            async for batch in batches:
                for event in batch:
                    await say(event.message)
        if subscription.ended == "slow":
            await close(LATER, "events were not taken in time")
        else:
            await close(RESTART, "the server is shutting down")
        nursery.cancel_scope.cancel()


async def _publish(live: Live, topic: str, said: str | bytes, seconds: float) -> str:
    """The answer to what a client has said, after so many ``seconds`` at most."""
    ref = msgspec.Raw(b"null")
    try:
        if isinstance(said, bytes):
            raise BadJson("a message that publishes is a text")
        try:
            message = decode_json(_said, said.encode())
        except msgspec.ValidationError as error:
            raise BadJson(f'a message that publishes is {{"event": TYPE, "data": …}}: {error}') from error
        ref = message.ref
        with trio.move_on_after(seconds):
            id = await live.publish(topic, message.event, bytes(message.data))
            return msgspec.json.encode({"published": str(id), "ref": ref}).decode()
        raise DeadlineExceeded(f"it was not published within {seconds:g} s")
    except SluiceError as error:
        return msgspec.json.encode({"problem": content_of(error), "ref": ref}).decode()
