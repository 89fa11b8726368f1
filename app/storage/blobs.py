"""Reports as files below one folder: opened safely, read in chunks, stored whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from app.errors import StartError
from app.flow.threads import ThreadPool
from app.storage.incoming import StoredBlob, Upload, open_incoming, telling_why
from app.storage.open_files import (
    CHUNK_BYTES,
    Blob,
    BlobTruncated,
    OpenFile,
    OpenFiles,
    OpenFilesStatistics,
    file_id,
    identity_of,
    is_stale,
)
from app.storage.sweep import Named, sweep

__all__ = ["CHUNK_BYTES", "Blob", "BlobTruncated", "BlobUnreadable", "LocalBlobs", "StoredBlob", "open_blobs"]


class BlobUnreadable(Exception):
    """No regular file below the folder stands at that path. ``gone``: there is nothing at all."""

    def __init__(self, path: str, reason: str, *, gone: bool = False) -> None:
        super().__init__(f"{path!r}: {reason}")
        self.reason = reason
        self.gone = gone


class _Look:
    """One look at the file system for what is at a path, and all who wait for it.

    began: when the thread began. found: the file, unless it was changed meanwhile. refused: why there is none.
    With neither, for instance as whoever looked was cancelled, those who wait have to look themselves.
    """

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.began: float | None = None
        self.found: OpenFile | None = None
        self.refused: BlobUnreadable | None = None


class LocalBlobs:
    """The files below ``directory``.

    A path is relative to the directory, or absolute inside it. Symbolic links are followed as long as they stay
    inside; ``..`` that leaves it, devices, FIFOs, sockets and folders are refused without being opened.

    Files stay open for the next one who asks (`OpenFiles` has the bounds). That others have written, renamed or removed
    a file is noticed at once, unless its file system could let us wait for that; everything else, such as a folder that
    was renamed, within 1 s: that long at most a path leads to the file that was last seen there.

    clock: seconds, on any steady clock that threads can read.
    """

    def __init__(self, directory: Path, threads: ThreadPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._threads = threads
        self._clock = clock
        self._probing = ThreadPool("probe", 1)
        self._files = OpenFiles()
        self._looks: dict[str, _Look] = {}  # as many as there are callers at most

    def open_nowait(self, path: str, *, fixed: bool = False) -> Blob | None:
        """A lease, where the file is open and was seen at ``path`` a moment ago; else None.

        fixed: whether nobody writes to the file but us, who never do: one that was `incoming`.
        """
        file = self._files.get(path, self._clock(), looking=path in self._looks, fixed=fixed)
        return None if file is None else Blob(file, self._files, self._threads, fixed=fixed)

    async def open(self, path: str) -> Blob:
        """A lease, with a look at the file system where it is due: one for all who want the same path.

        *Errors*: BlobUnreadable. *Cancellation*: waits for the thread, and leaves nothing open.
        """
        await trio.lowlevel.checkpoint()
        while (blob := self.open_nowait(path)) is None:
            look = self._looks.get(path)
            if look is None or (look.began is not None and is_stale(look.began, self._clock())):
                return await self._look(path)
            await look.ended.wait()
            if look.refused is not None:
                raise BlobUnreadable(path, look.refused.reason, gone=look.refused.gone) from look.refused
            if look.found is not None and look.found.descriptor >= 0 and not look.found.changed():
                return Blob(look.found, self._files, self._threads)
        return blob

    def incoming(self) -> AbstractAsyncContextManager[Upload]:
        """A new file; see `open_incoming`."""
        return open_incoming(self._directory, self._threads)

    async def sweep(self, named: Named) -> int:
        """Removes what crashes have left behind (see `sweep`), and returns how many files that were."""
        return await sweep(self._directory, self._threads, named, self._files.drop)

    async def redate(self, blob: StoredBlob, modified_ns: int) -> StoredBlob:
        """Gives a file that nobody reads yet another modification time. *Errors*: ReportsUnwritable."""
        self._files.forget(await self._threads.run(partial(self._redate, blob.path, modified_ns)))
        return replace(blob, modified_ns=modified_ns)

    async def remove(self, path: str) -> None:
        """Removes a file below the folder, where it is there. Who has it open can go on; nobody gets it any more."""
        removed = await self._threads.run(partial(self._remove, path))
        self._files.drop(path)  # even where somebody else had removed it
        self._files.forget(removed)

    async def probe(self) -> None:
        """Whether the folder can be listed and written to. *Errors*: OSError.

        *Cancellation*: at once, even where the file system hangs; at most one thread is left behind with it.
        """
        self._files.sweep(self._clock())
        await self._probing.run_or_abandon(self._probe)

    def statistics(self) -> OpenFilesStatistics:
        return self._files.statistics()

    def close(self) -> None:
        """Closes the files that nobody reads; the others when their lease is. Idempotent."""
        self._files.close()

    async def _look(self, path: str) -> Blob:
        """`open` by a look of our own, for the others too."""
        look = self._looks[path] = _Look()
        generation = self._files.generation
        self._files.misses += 1
        with ExitStack() as stack:
            stack.callback(self._end, path, look)
            if (held := self._files.peek(path)) is not None:
                # So that it cannot be closed while its identity is compared.
                stack.callback(Blob(held, self._files, self._threads).close)
            try:
                found = await self._threads.run(partial(self._find, path, look, held))
            except BlobUnreadable as error:
                look.refused = error
                self._files.drop(path)
                raise
            # No checkpoint from here on: what was found is nobody's yet.
            blob = Blob(found, self._files, self._threads)
            if generation == self._files.generation:
                found.checked = max(found.checked, look.began or found.checked)
                self._files.put(path, found)
                look.found = found
            return blob

    def _end(self, path: str, look: _Look) -> None:
        if self._looks.get(path) is look:
            del self._looks[path]
        look.ended.set()

    def _find(self, path: str, look: _Look, held: OpenFile | None) -> OpenFile:
        """What is at ``path`` now, which is ``held`` where nothing changed."""
        look.began = self._clock()
        descriptor = self._open(path)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BlobUnreadable(path, "is no regular file")
            if held is None or held.identity != identity_of(status):
                return OpenFile(descriptor, status, look.began)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise _unreadable(path, error) from error
            raise
        os.close(descriptor)
        return held

    def _open(self, path: str) -> int:
        root = os.path.realpath(self._directory)
        inside = self._resolve(root, path)
        try:
            return _open_beneath(root, inside)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error

    def _resolve(self, root: str, path: str) -> list[str]:
        """The path's parts below ``root`` once every link in it is followed."""
        try:
            real = os.path.realpath(os.path.join(root, path))
            # Looked at before it is opened: opening a device or a FIFO can have effects of its own.
            if os.path.commonpath([root, real]) != root:
                raise BlobUnreadable(path, "leaves the reports folder")
            if not stat.S_ISREG(os.stat(real, follow_symlinks=False).st_mode):
                raise BlobUnreadable(path, "is no regular file")
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        return os.path.relpath(real, root).split(os.sep)

    def _redate(self, path: str, modified_ns: int) -> tuple[int, int]:
        file = self._directory / path
        with telling_why():
            os.utime(file, ns=(modified_ns, modified_ns))
            return file_id(file.stat())

    def _remove(self, path: str) -> tuple[int, int] | None:
        root = os.path.realpath(self._directory)
        with suppress(BlobUnreadable, FileNotFoundError):
            real = os.path.join(root, *self._resolve(root, path))
            status = os.stat(real, follow_symlinks=False)
            os.unlink(real)
            return file_id(status)
        return None

    def _probe(self) -> None:
        with os.scandir(self._directory) as entries:
            next(entries, None)
        probe = self._directory / f".probe-{secrets.token_hex(8)}"
        probe.touch(exist_ok=False)
        probe.unlink()


async def open_blobs(directory: Path, threads: ThreadPool) -> LocalBlobs:
    """The reports folder, which is made where it is missing.

    Errors: StartError where it cannot be made, read or written.
    """
    blobs = LocalBlobs(directory, threads)
    try:
        await threads.run(partial(directory.mkdir, parents=True, exist_ok=True))
        await blobs.probe()
    except OSError as error:
        raise StartError(f"the reports folder {directory} cannot be used: {error.strerror or error}") from error
    return blobs


def _open_beneath(root: str, parts: list[str]) -> int:
    """Opens ``parts`` one below the other, following no link: one that was put there since they were resolved is
    refused, so that nobody can win a race to the outside."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        # O_NONBLOCK: a FIFO that was put there since would block.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(parts[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)


def _unreadable(path: str, error: OSError | ValueError) -> BlobUnreadable:
    if isinstance(error, OSError):
        gone = error.errno in {errno.ENOENT, errno.ENOTDIR}
        return BlobUnreadable(path, error.strerror or str(error), gone=gone)
    return BlobUnreadable(path, str(error))
