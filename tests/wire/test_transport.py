"""How often who reads gives way to others: where there is always something to read, nothing else lets it wait."""

from __future__ import annotations

from itertools import groupby

import pytest
import trio

from app.flow.threads import ThreadPool
from app.wire import transport as module
from app.wire.readiness import Readiness
from app.wire.transport import TURNS, PlainTransport


@pytest.mark.parametrize("turns", [1, TURNS])
async def test_others_get_their_turn_every_so_many_reads(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 10)
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    seen: list[int] = []
    ours, theirs = trio.socket.socketpair()
    with theirs, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            readiness = Readiness()
            nursery.start_soon(readiness.run)
            nursery.start_soon(count)
            transport = PlainTransport(trio.SocketStream(ours), readiness, ThreadPool("none", 1), 1)
            await theirs.send(bytes(10 * TURNS * 3))
            for _ in range(TURNS * 3):
                assert len(await transport.receive(turns)) == 10
                seen.append(others)
            transport.close()
            nursery.cancel_scope.cancel()
    # Trio runs those whose turn it is in any order.
    assert max(len(list(group)) for _, group in groupby(seen)) <= 2 * turns
