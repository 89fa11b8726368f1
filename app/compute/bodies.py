"""Requests for tasks, as they come in: small ones into memory, large ones into a file that a worker can open."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable
from contextlib import ExitStack

import trio

from app.compute.memory_files import memory_file, write_all
from app.compute.payload import InFile, Inline, Payload
from app.errors import BodyTooLarge, Overloaded
from app.http.json_structure import JsonStructure

# What is looked at in one go: the event loop has others to serve.
_SLICE_BYTES = 16 * 1024


class Bodies:
    """Bound: bodies of up to ``inline`` bytes are held by their requests; of those beyond, of up to ``most`` bytes,
    there are ``places`` at a time, and more are refused: they wait for a worker, of which there are not many."""

    def __init__(self, inline: int, most: int, places: int) -> None:
        self._inline = min(inline, most)
        self._most = most
        self._places = places

    async def receive(
        self,
        chunks: AsyncIterable[bytes],
        resources: ExitStack,
        watch: Callable[[bytes], object] | None = None,
        length: int | None = None,
    ) -> Payload:
        """The JSON that ``chunks`` are; of its structure only the limits are known.

        resources: takes what has to be closed in the end. watch: is called with each part of the body. length: in
        bytes, where that is known before.
        *Errors*: BadJson, BodyTooLarge, Overloaded, and those of ``chunks``.
        """
        self._check(length or 0)
        structure = JsonStructure()
        held = bytearray()
        file: int | None = None
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            self._check(size)
            await _look(structure, chunk, watch)
            held += chunk
            if file is None and len(held) > self._inline:
                file = self._open(resources)
            if file is not None:
                write_all(file, held)
                held.clear()
        structure.finish()
        return Inline(bytes(held)) if file is None else InFile(file, size)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise BodyTooLarge(f"the body is larger than the {self._most} bytes that a request for a task may have")

    def _open(self, resources: ExitStack) -> int:
        if not self._places:
            raise Overloaded("too many large requests for tasks are being read, wait or run", retry_after=1)
        self._places -= 1
        resources.callback(self._give_back)
        descriptor = memory_file("sluice-request")
        resources.callback(os.close, descriptor)
        return descriptor

    def _give_back(self) -> None:
        self._places += 1


async def _look(structure: JsonStructure, chunk: bytes, watch: Callable[[bytes], object] | None) -> None:
    for start in range(0, len(chunk), _SLICE_BYTES):
        if start:
            await trio.lowlevel.checkpoint()
        part = chunk[start : start + _SLICE_BYTES]
        structure.feed(part)
        if watch is not None:
            watch(part)
