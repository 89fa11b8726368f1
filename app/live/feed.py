"""A subscription as server-sent events."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from app.flow.request import current_request
from app.http.events import comment
from app.live.events import Burst
from app.live.service import Live
from app.live.subscription import Position, Subscription, batches_of
from app.wire.asgi import SendNow

# After a shutdown another process may be there, but must not be met by all at once.
_RETRY_LEAST_MS, _RETRY_MOST_MS = 1000, 3000
_BEAT = comment("still there")


@asynccontextmanager
async def open_feed(
    live: Live, name: str, position: Position, send_now: SendNow | None = None
) -> AsyncGenerator[AsyncIterator[bytes]]:
    """The topic's events, until its client leaves or the server shuts down. What waits leaves in one piece.

    send_now: of the answer, for what comes while nothing waits: it spares each of many a turn of the event loop.

    Of the time limits only the one that its client has set counts, and the stall limit of each write.
    """
    request = current_request.get()

    def send_burst(burst: Burst) -> bool:
        data = burst.sse
        request.sent_now += len(data)
        return send_now is None or send_now(data)

    async with live.subscribe(name, position, send_burst if send_now is not None else None) as subscription:
        request.begin_moving()
        try:
            async with aclosing(_chunks(subscription)) as chunks:
                yield chunks
        finally:
            request.end_moving()


async def _chunks(subscription: Subscription) -> AsyncGenerator[bytes]:
    # By which the client knows that whatever comes from now on reaches it, also if it has to come again before that.
    first = subscription.position
    yield _retry() if first is None else b"id: %b\n%b" % (str(first).encode(), _retry())
    async with batches_of(subscription) as batches:
        async for batch in batches:
            match len(batch):
                case 0:
                    yield _BEAT
                case 1:
                    yield batch[0].sse
                case _:
                    yield b"".join([event.sse for event in batch])
    yield _retry()


def _retry() -> bytes:
    return b"retry: %d\n\n" % random.randint(_RETRY_LEAST_MS, _RETRY_MOST_MS)  # noqa: S311 - spreads load
