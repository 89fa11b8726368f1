"""A request's body as a route reads it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from app.errors import BodyTooLarge
from app.web.pulled import PulledBody
from app.wire.asgi import Message
from app.wire.exchange import Disconnected


def _body(messages: Sequence[Message], most: int = 100) -> PulledBody:
    left = list(messages)

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        return left.pop(0)

    return PulledBody(receive, most)


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


_GONE: Message = {"type": "http.disconnect"}


async def test_it_comes_chunk_by_chunk_or_whole() -> None:
    messages = [_part(b"one"), _part(b""), _part(b"two"), _part(b"", more=False)]
    assert [chunk async for chunk in _body(messages)] == [b"one", b"two"]
    assert await _body(messages) == b"onetwo"


@pytest.mark.parametrize("messages", [[_GONE], [_part(b"half"), _GONE]])
async def test_of_a_client_that_leaves_half_a_body_does_not_look_like_a_whole_one(messages: list[Message]) -> None:
    with pytest.raises(Disconnected):
        [chunk async for chunk in _body(messages)]
    with pytest.raises(Disconnected):
        await _body(messages)


async def test_only_a_body_that_is_read_whole_has_a_bound_here() -> None:
    messages = [_part(b"x" * 60), _part(b"x" * 60, more=False)]
    assert len([chunk async for chunk in _body(messages)]) == 2
    with pytest.raises(BodyTooLarge):
        await _body(messages)
