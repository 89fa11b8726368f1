"""What is held of a file whose client takes nothing of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from app.flow.threads import ThreadPool
from app.http.answers import Answer, FilePart
from app.storage.blobs import open_blobs
from app.web.short_way import send_answer
from app.wire.asgi import Message
from tests.web.wire import scope

KIB = 1024


@pytest.mark.parametrize(("version", "most"), [("1.1", 3 * 256 * KIB), ("2", 128 * KIB)])
async def test_of_a_file_that_nobody_takes_little_is_read(
    version: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP/2 less: there a connection has a hundred answers under way."""
    (tmp_path / "a.bin").write_bytes(bytes(8 * 1024 * KIB))
    read: list[int] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int, *flags: int) -> int:
        count = preadv(descriptor, buffers, offset, *flags)
        read.append(count)
        return count

    offered = trio.Event()

    async def send(message: Message) -> None:
        if message.get("body"):
            offered.set()
            await trio.sleep_forever()

    blobs = await open_blobs(tmp_path, ThreadPool("files", 2))
    blob = await blobs.open("a.bin")
    async with trio.open_nursery() as nursery:
        monkeypatch.setattr("os.preadv", counted)
        answer = Answer(200, [], FilePart(blob, 0, blob.size))
        nursery.start_soon(send_answer, scope(http_version=version, extensions={}), send, answer)
        await offered.wait()
        await wait_all_tasks_blocked(0.05)
        assert 0 < sum(read) <= most
        nursery.cancel_scope.cancel()
