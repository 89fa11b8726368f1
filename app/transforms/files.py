"""A pipeline from file to file: all of it, or nothing."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from app.flow.threads import ThreadPool

# A little less than what malloc would ask the kernel for, and give back, each time; and how many a thread hop moves.
_BLOCK_BYTES = 128 * 1024 - 512
_BLOCKS = 8


async def read_file(file: BinaryIO, threads: ThreadPool, progress: Callable[[int], object]) -> AsyncGenerator[bytes]:
    """The blocks of ``file``, unbuffered, as they come; ``progress`` is told of the bytes of each.

    *Cancellation*: at once, also where it is a pipe or a terminal that nothing comes from: its thread is left behind.
    *Errors*: OSError.
    """
    while blocks := await threads.run_or_abandon(partial(_read_some, file.fileno())):
        progress(sum(map(len, blocks)))
        for block in blocks:
            yield block


async def write_file(file: BinaryIO, chunks: AsyncIterator[bytes], threads: ThreadPool) -> None:
    """Writes ``chunks``, in blocks. *Cancellation*, *Errors*: as of `read_file`."""
    # A pipe's reader is given what there is: it may be waiting for it.
    most = _BLOCKS * _BLOCK_BYTES if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else 0
    gathered: list[bytes] = []
    size = 0
    async for chunk in chunks:
        gathered.append(chunk)
        size += len(chunk)
        if size >= most:
            await threads.run_or_abandon(partial(_write_all, file.fileno(), gathered))
            gathered, size = [], 0
    await threads.run_or_abandon(partial(_write_all, file.fileno(), gathered))


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file that takes the place of ``path`` when the block ends, and is gone if it is left in any other way.

    What is there and is no regular file, such as a device or a FIFO, is written to as it is. *Errors*: OSError.
    """
    if path.exists() and not path.is_file():
        with path.open("wb", buffering=0) as file:
            yield cast("BinaryIO", file)
        return
    target = path.resolve()  # a link stays one
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb", buffering=0) as file:
            with suppress(OSError):  # it keeps its mode; a new one has what new files get
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            yield cast("BinaryIO", file)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _read_some(descriptor: int) -> list[bytes]:
    """What there is, in blocks; none at the end."""
    blocks: list[bytes] = []
    while len(blocks) < _BLOCKS and (block := os.read(descriptor, _BLOCK_BYTES)):
        blocks.append(block)
        if len(block) < _BLOCK_BYTES:  # a pipe, perhaps: the next one may be long in coming
            break
    return blocks


def _write_all(descriptor: int, chunks: list[bytes]) -> None:
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
