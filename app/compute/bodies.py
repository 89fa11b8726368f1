"""Requests for tasks, as they come in: small ones into memory, large ones into a file that a worker can open."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable
from contextlib import ExitStack

import trio

from app.compute.payload import InFile, Inline, Payload
from app.errors import BodyTooLarge, Overloaded
from app.http.json_structure import JsonStructure

# What is looked at in one go: the event loop has others to serve.
_SLICE_BYTES = 16 * 1024


class Bodies:
    """Bound: bodies of up to ``inline`` bytes are held by their requests; of those beyond, of up to ``most`` bytes,
    there are ``places`` at a time, and more are refused: they wait for a worker, of which there are not many."""

    def __init__(self, inline: int, most: int, places: int) -> None:
        self._inline = inline
        self._most = most
        self._places = places

    async def receive(
        self, chunks: AsyncIterable[bytes], resources: ExitStack, watch: Callable[[bytes], object] | None = None
    ) -> Payload:
        """The JSON that ``chunks`` are; of its structure only the limits are known.

        resources: takes what has to be closed in the end. watch: is called with each part of the body.
        *Errors*: BadJson, BodyTooLarge, Overloaded, and those of ``chunks``.
        """
        structure = JsonStructure()
        held = bytearray()
        file: int | None = None
        async for chunk in chunks:
            await _look(structure, chunk, watch)
            held += chunk
            if file is None and len(held) > self._inline:
                file = self._open(resources)
            if file is not None:
                self._write(file, held)
                held.clear()
        structure.finish()
        return Inline(bytes(held)) if file is None else InFile(file, os.fstat(file).st_size)

    def _open(self, resources: ExitStack) -> int:
        if not self._places:
            raise Overloaded("too many large requests for tasks are being read, wait or run", retry_after=1)
        self._places -= 1
        resources.callback(self._give_back)
        descriptor = os.memfd_create("sluice-request", os.MFD_CLOEXEC)
        resources.callback(os.close, descriptor)
        return descriptor

    def _give_back(self) -> None:
        self._places += 1

    def _write(self, descriptor: int, data: bytearray) -> None:
        if os.fstat(descriptor).st_size + len(data) > self._most:
            raise BodyTooLarge(f"the body is larger than the {self._most} bytes that a request for a task may have")
        with memoryview(data) as left:
            written = 0
            while written < len(left):
                written += os.write(descriptor, left[written:])


async def _look(structure: JsonStructure, chunk: bytes, watch: Callable[[bytes], object] | None) -> None:
    for start in range(0, len(chunk), _SLICE_BYTES):
        if start:
            await trio.lowlevel.checkpoint()
        part = chunk[start : start + _SLICE_BYTES]
        structure.feed(part)
        if watch is not None:
            watch(part)
