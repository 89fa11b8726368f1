"""A job as server-sent events: each state that it is in, until it is over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from enum import Enum

import msgspec
import trio

from app.flow.drain import DrainGate
from app.flow.request import current_request
from app.http.events import comment, encode_event
from app.jobs.job import Job, describe
from app.jobs.service import Jobs

HEARTBEAT_SECONDS = 15.0

# After a shutdown another instance, or the next process, may be there.
_RETRY_MS = 1000


class _Else(Enum):
    QUIET = "nothing happened for a while"
    DRAIN = "the server is shutting down"


@asynccontextmanager
async def open_feed[C](jobs: Jobs[C], job: Job, seen: int, gate: DrainGate) -> AsyncGenerator[AsyncIterator[bytes]]:
    """``job``, unless its revision was ``seen``, and each later state, until it is over or a drain begins.

    It waits for news as long as it takes: of the time limits only the one that its client has set counts.

    Bound: one state; of several that come while the client does not read, it gets the newest.
    """
    request = current_request.get()
    request.begin_moving()
    try:
        async with aclosing(_events(jobs, job, seen, gate)) as events:
            yield events
    finally:
        request.end_moving()


async def _events[C](jobs: Jobs[C], job: Job, seen: int, gate: DrainGate) -> AsyncGenerator[bytes]:
    yield _event(job) if job.revision > seen else comment("nothing new yet")
    while not job.is_over:
        match await _next(jobs, job, gate):
            case Job() as job:
                yield _event(job)
            case _Else.QUIET:
                yield comment("still there")
            case _Else.DRAIN:
                yield f"retry: {_RETRY_MS}\n\n".encode()
                return


async def _next[C](jobs: Jobs[C], job: Job, gate: DrainGate) -> Job | _Else:
    happened: Job | _Else = _Else.QUIET

    async def drain() -> None:
        nonlocal happened
        await gate.wait_started()
        happened = _Else.DRAIN
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + HEARTBEAT_SECONDS
        nursery.start_soon(drain)
        happened = await jobs.later(job)
        nursery.cancel_scope.cancel()
    return happened


def _event(job: Job) -> bytes:
    return encode_event(msgspec.json.encode(describe(job)), id=str(job.revision))
