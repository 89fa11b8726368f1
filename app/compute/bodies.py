"""Requests for tasks, as they come in: small ones into memory, large ones into a file that a worker can open."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable
from contextlib import ExitStack

import trio

from app.compute.memory_files import memory_file, write_all
from app.compute.payload import InFile, Inline, Payload
from app.errors import BodyTooLarge, Overloaded
from app.http.json_structure import MOST_DEPTH, JsonStructure

# What is done with in one go: the event loop has others to serve.
_SLICE_BYTES = 16 * 1024
# Up to here nothing can be too much but the depth, which is easily seen.
_SMALL_BYTES = 4096

type Watch = Callable[[bytes], object]


class Bodies:
    """Bound: bodies of up to ``inline`` bytes are held by their requests. Those beyond have up to ``most`` bytes each;
    of what has come of all of them there may be ``together`` bytes, and more is refused: they wait for a worker, of
    which there are not many."""

    def __init__(self, inline: int, most: int, together: int) -> None:
        self.inline = min(inline, most)
        self._most = most
        self._left = together

    async def receive(
        self,
        chunks: AsyncIterable[bytes],
        resources: ExitStack,
        watch: Watch | None = None,
        length: int | None = None,
    ) -> Payload:
        """The JSON that ``chunks`` are; of its structure only the limits are known.

        resources: takes what has to be closed in the end. watch: is called with each part of the body. length: in
        bytes, where that is known before.
        *Errors*: BadJson, BodyTooLarge, Overloaded, and those of ``chunks``.
        """
        self.check(length or 0)
        body = _Body(self, resources, watch)
        async for chunk in chunks:
            for start in range(0, len(chunk), _SLICE_BYTES):
                if start:
                    await trio.lowlevel.checkpoint()
                body.add(chunk[start : start + _SLICE_BYTES])
        return body.payload()

    def check(self, size: int) -> None:
        """*Errors*: BodyTooLarge."""
        if size > self._most:
            raise BodyTooLarge(f"the body is larger than the {self._most} bytes that a request for a task may have")

    def take(self, size: int) -> None:
        """*Errors*: Overloaded."""
        if size > self._left:
            raise Overloaded("too much of large requests for tasks is there already", retry_after=1)
        self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size


class _Body:
    """What has come of one."""

    def __init__(self, bodies: Bodies, resources: ExitStack, watch: Watch | None) -> None:
        self._bodies = bodies
        self._resources = resources
        self._watch = watch
        self._structure: JsonStructure | None = None  # once there is something in it that may be too much
        self._opened = 0
        self._held = bytearray()
        self._file: _File | None = None
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        self._bodies.check(self._size)
        if self._watch is not None:
            self._watch(piece)
        self._look(piece)
        if self._file is None and self._size > self._bodies.inline:
            self._file = self._resources.enter_context(_File(self._bodies))
            self._file.write(self._held)
            self._held = bytearray()
        if self._file is not None:
            self._file.write(piece)
        else:
            self._held += piece

    def _look(self, piece: bytes) -> None:
        if self._structure is None:
            self._opened += piece.count(b"[") + piece.count(b"{")
            if self._size <= _SMALL_BYTES and self._opened <= MOST_DEPTH:
                return
            self._structure = JsonStructure()
            self._structure.feed(bytes(self._held))
        self._structure.feed(piece)

    def payload(self) -> Payload:
        """All of it."""
        if self._structure is not None:
            self._structure.finish()
        return Inline(bytes(self._held)) if self._file is None else InFile(self._file.descriptor, self._size)


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

    def write(self, data: bytes | bytearray) -> None:
        """*Errors*: Overloaded."""
        self._bodies.take(len(data))
        self._size += len(data)
        write_all(self.descriptor, data)
