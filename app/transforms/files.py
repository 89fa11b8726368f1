"""A pipeline from file to file: all of it, or nothing."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from app.flow.threads import ThreadPool

# What a thread hop moves: so much that the hop costs little beside it.
BLOCK_BYTES = 1024 * 1024
_STANDARD_INPUT = {"-", "/dev/stdin", "/dev/fd/0"}
_STANDARD_OUTPUT = {"-", "/dev/stdout", "/dev/fd/1"}


async def read_file(file: BinaryIO, threads: ThreadPool, progress: Callable[[int], object]) -> AsyncGenerator[bytes]:
    """The blocks of ``file``, unbuffered, as they come; ``progress`` is told of the bytes of each.

    *Cancellation*: at once, also where it is a pipe or a terminal that nothing comes from: its thread is left behind.
    *Errors*: OSError.
    """
    while block := await threads.run_or_abandon(partial(os.read, file.fileno(), BLOCK_BYTES)):
        progress(len(block))
        yield block


async def write_file(file: BinaryIO, chunks: AsyncIterator[bytes], threads: ThreadPool) -> None:
    """Writes ``chunks``, in blocks. *Cancellation*: as of `read_file`, but of a regular file waits for the thread.

    *Errors*: OSError.
    """
    regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    # A pipe's reader is given what there is: it may be waiting for it.
    most = BLOCK_BYTES if regular else 0
    run = threads.run if regular else threads.run_or_abandon
    gathered: list[bytes] = []
    size = 0
    async for chunk in chunks:
        gathered.append(chunk)
        size += len(chunk)
        if size >= most:
            await run(partial(_write_all, file.fileno(), gathered))
            gathered, size = [], 0
    await run(partial(_write_all, file.fileno(), gathered))


@asynccontextmanager
async def open_source(name: str, threads: ThreadPool) -> AsyncGenerator[BinaryIO]:
    """The file to read, unbuffered; ``-`` is standard input. *Cancellation*: also where it is a FIFO that nobody opens.

    *Errors*: OSError.
    """
    if name in _STANDARD_INPUT:
        yield _standard(0, "rb")
        return
    with await threads.run_or_abandon(partial(Path(name).open, "rb", buffering=0)) as file:
        yield cast("BinaryIO", file)


@asynccontextmanager
async def open_target(name: str, threads: ThreadPool) -> AsyncGenerator[BinaryIO]:
    """A file that takes the place of ``name`` when the block ends, and is gone if it is left in any other way.

    ``-`` is standard output. What is no regular file, such as a device or a FIFO, is written to as it is.
    *Cancellation*: as `open_source`. *Errors*: OSError.
    """
    path = Path(name)
    if name in _STANDARD_OUTPUT:
        yield _standard(1, "wb")
    elif await threads.run(partial(_is_special, path)):
        with await threads.run_or_abandon(partial(_open_special, path)) as file:
            yield file
    else:
        with _replacing(path) as file:
            yield file


@contextmanager
def _replacing(path: Path) -> Generator[BinaryIO]:
    target = path.resolve()  # a link stays one
    # Short, so that it is no longer than the longest name that a file may have.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
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


def _standard(descriptor: int, mode: str) -> BinaryIO:
    """Standard input or output, as the unbuffered file that it is."""
    return cast("BinaryIO", open(descriptor, mode, buffering=0, closefd=False))


def _is_special(path: Path) -> bool:
    """Whether something is there that cannot be replaced; what a process has open only has a name there."""
    return (
        path.absolute().is_relative_to("/dev")
        or path.absolute().is_relative_to("/proc")
        or (path.exists() and not path.is_file())
    )


def _open_special(path: Path) -> BinaryIO:
    """Without cutting it short: behind the name may be a file that others write to as well."""
    return cast("BinaryIO", open(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "wb", buffering=0))  # noqa: PTH123


def _write_all(descriptor: int, chunks: list[bytes]) -> None:
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
