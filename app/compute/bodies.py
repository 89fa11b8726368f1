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
    """Bound: bodies of up to ``inline`` bytes are held by their requests. Those beyond have up to ``most`` bytes each;
    of what has come of all of them there may be ``together`` bytes, and more is refused: they wait for a worker, of
    which there are not many."""

    def __init__(self, inline: int, most: int, together: int) -> None:
        self._inline = min(inline, most)
        self._most = most
        self._left = together

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
        file: _File | None = None
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            self._check(size)
            await _look(structure, chunk, watch)
            held += chunk
            if file is None and len(held) > self._inline:
                file = resources.enter_context(_File(self))
            if file is not None:
                file.write(held)
                held.clear()
        structure.finish()
        return Inline(bytes(held)) if file is None else InFile(file.descriptor, size)

    def take(self, size: int) -> None:
        """*Errors*: Overloaded."""
        if size > self._left:
            raise Overloaded("too much of large requests for tasks is there already", retry_after=1)
        self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size

    def _check(self, size: int) -> None:
        if size > self._most:
            raise BodyTooLarge(f"the body is larger than the {self._most} bytes that a request for a task may have")


class _File:
    """A body in a file in memory, whose bytes count until it is closed."""

    def __init__(self, bodies: Bodies) -> None:
        self.descriptor = memory_file("sluice-request")
        self._bodies = bodies
        self._size = 0

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        self._bodies.give_back(self._size)

    def write(self, data: bytearray) -> None:
        """*Errors*: Overloaded."""
        self._bodies.take(len(data))
        self._size += len(data)
        write_all(self.descriptor, data)


async def _look(structure: JsonStructure, chunk: bytes, watch: Callable[[bytes], object] | None) -> None:
    for start in range(0, len(chunk), _SLICE_BYTES):
        if start:
            await trio.lowlevel.checkpoint()
        part = chunk[start : start + _SLICE_BYTES]
        structure.feed(part)
        if watch is not None:
            watch(part)
