"""What a crash has left in the reports folder, and nothing else, is removed."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import trio

from app.flow.threads import ThreadPool
from app.storage.incoming import INCOMING, TEMPORARY_NAME, is_stored_path

_BATCH = 500

type Named = Callable[[Sequence[str], bool], Awaitable[set[str]]]
"""Which of these paths a row names; if the flag is set, once the transactions that run have ended."""


async def sweep(directory: Path, threads: ThreadPool, named: Named, removed: Callable[[str], None]) -> int:
    """Removes files with names of our own making that no row names and nobody is about to name: how many.

    A file goes through three questions, of which the last two make sure: does a row name it; can it be locked (an
    upload holds the lock until its row is committed, so that a file which is locked is left alone); and, once it is
    locked, does a row name it now, which may have been committed in between. Others may sweep the same folder.

    removed: called with the path of each that was removed.

    Bound: one pass, `_BATCH` paths at a time. *Errors*: those of ``named``; OSError
    where the folder cannot be listed. *Cancellation*: at the next file.
    """
    count = 0
    found = _ours(directory)
    while batch := await threads.run(partial(_take, found)):
        known = await _known(directory, batch, named, settled=False)
        for path in batch:
            if path not in known and await _remove(directory, path, threads, named):
                removed(path)
                count += 1
    return count


async def _remove(directory: Path, path: str, threads: ThreadPool, named: Named) -> bool:
    descriptor = await threads.run(partial(_lock, directory / path))
    if descriptor is None:
        return False
    keep, gone = True, False
    try:
        keep = bool(await _known(directory, [path], named, settled=True))
    finally:
        with trio.CancelScope(shield=True):  # the lock must be given up, and the thread ends soon
            gone = await threads.run(partial(_settle, directory / path, descriptor, keep))
    return gone


async def _known(directory: Path, paths: Sequence[str], named: Named, *, settled: bool) -> set[str]:
    """Those of ``paths`` that a row names, in either way that it may: relative to the folder, or absolute."""
    spelled = _spellings(directory, paths)
    # A collation may not tell case apart, and answer with another spelling. All of ours is lower case.
    by_folded = {spelling.lower(): path for spelling, path in spelled.items()}
    found = await named(list(spelled), settled)
    return {by_folded[name.lower()] for name in found if name.lower() in by_folded}


def _spellings(directory: Path, paths: Sequence[str]) -> dict[str, str]:
    return {str(directory.absolute() / path): path for path in paths} | {path: path for path in paths}


def _take(found: Iterator[str]) -> list[str]:
    return list(islice(found, _BATCH))


def _ours(directory: Path) -> Iterator[str]:
    """The paths below ``directory`` of what may have been left behind, with names of our own making."""
    with suppress(FileNotFoundError):
        for name in _names(directory / INCOMING):
            if TEMPORARY_NAME.fullmatch(name):
                yield f"{INCOMING}/{name}"
    for number in range(256):
        folder = f"{number:02x}"
        with suppress(FileNotFoundError, NotADirectoryError):
            if not (directory / folder).is_symlink():
                yield from (path for name in _names(directory / folder) if is_stored_path(path := f"{folder}/{name}"))


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if entry.is_file(follow_symlinks=False))


def _lock(path: Path) -> int | None:
    """A descriptor that has locked the file, if it is there and nobody else has."""
    try:
        # For writing too: over NFS an exclusive lock needs that.
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _settle(path: Path, descriptor: int, keep: bool) -> bool:
    """Removes the file unless it is to be kept, and gives up the lock; whether it was removed."""
    try:
        if not keep:
            path.unlink()
    except FileNotFoundError:
        return False  # it got its last name before it was locked
    finally:
        os.close(descriptor)
    return not keep
