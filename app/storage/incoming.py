"""Files on their way into the reports folder: written, hashed and made durable in threads, whole or not there at all.

A file that comes in is locked (``flock``) from its first moment until its writer has settled what names it; the lock
goes with the process, however that ends. So whoever can lock a file knows that nobody is about to name it: that is how
`app.storage.sweep` tells what a crash has left behind, in a folder that several processes may share.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import structlog
import trio

from app.errors import InsufficientStorage, ReportsUnwritable
from app.flow.threads import ThreadPool

_log = structlog.get_logger()

INCOMING = ".incoming"
TEMPORARY_NAME = re.compile(r"[0-9a-f]{32}(\.[a-z0-9+_-]{1,16})?")
STORED_NAME = re.compile(r"[0-9a-f]{32}\.[a-z0-9+_-]{1,16}")

# So much is written and hashed in one go.
_PART_BYTES = 1024 * 1024
_HEAD_BYTES = 16
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# How long cleaning up may wait for a thread; what is left after that is the next sweep's.
_CLEANUP_SECONDS = 10.0


@dataclass(frozen=True)
class StoredBlob:
    """A file that was stored: its path relative to the folder, bytes, SHA-256 (hex) and modification time."""

    path: str
    size: int
    digest: str
    modified_ns: int


def is_stored_path(path: str) -> bool:
    """Whether ``path`` is such as we give to what we store: ``xx/xx….ext``."""
    folder, _, name = path.partition("/")
    return name[:2] == folder and STORED_NAME.fullmatch(name) is not None


@asynccontextmanager
async def open_incoming(directory: Path, threads: ThreadPool) -> AsyncGenerator[Upload]:
    """A new file below ``directory``, locked until the block ends, and then removed unless it is to be kept.

    *Errors*: InsufficientStorage, ReportsUnwritable. *Cancellation*: waits for the thread; the file is removed all the
    same, or, where it cannot be, which is logged, by the next sweep.
    """
    file = await threads.run(partial(_create, directory))
    try:
        yield Upload(file, threads)
    finally:
        try:
            with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await threads.run(file.close)
        except OSError as error:
            _log.warning("upload not removed", reason=str(error))
        finally:
            file.release()


class Upload:
    """A file that comes in, chunk by chunk, and then gets a name of its own.

    head: the first 16 bytes of what was written; of fewer, all.

    Bound: `_PART_BYTES` and the last chunk are held. One task at a time.

    *Cancellation*: waits for the thread. *Errors*: InsufficientStorage where the disk, a quota or a limit is full;
    ReportsUnwritable where it is read-only, broken or gone.
    """

    def __init__(self, file: _File, threads: ThreadPool) -> None:
        self._file = file
        self._threads = threads
        self._part = bytearray()
        self.head = b""

    async def write(self, chunk: bytes) -> None:
        if len(self.head) < _HEAD_BYTES:
            self.head += chunk[: _HEAD_BYTES - len(self.head)]
        self._part += chunk
        if len(self._part) >= _PART_BYTES:
            await self._flush()

    async def digest(self) -> bytes:
        """The SHA-256 of all that was written."""
        await self._flush()
        return self._file.hash.digest()

    async def finish(self, suffix: str) -> StoredBlob:
        """Makes the file durable under its last name, which nothing has had before."""
        await self._flush()
        return await self._threads.run(partial(self._file.finish, suffix))

    @property
    def kept(self) -> bool:
        return self._file.kept

    def keep(self) -> None:
        """Something may name the file from now on: it stays when the block ends."""
        self._file.kept = True

    def drop(self) -> None:
        """Nothing names the file after all."""
        self._file.kept = False

    async def _flush(self) -> None:
        if self._part:
            part, self._part = self._part, bytearray()
            await self._threads.run(partial(self._file.append, part))


class _File:
    """The open file, for threads: one call at a time."""

    def __init__(self, directory: Path, name: str, descriptor: int) -> None:
        self.hash = sha256()
        self.kept = False
        self._directory = directory
        self._name = name
        self._path = directory / INCOMING / name
        self._descriptor = descriptor
        self._size = 0

    def append(self, part: bytearray) -> None:
        with memoryview(part) as left, telling_why():
            self.hash.update(left)
            self._size += len(left)
            at = 0
            while at < len(left):
                at += os.write(self._descriptor, left[at:])

    def finish(self, suffix: str) -> StoredBlob:
        name = self._name + suffix
        relative = f"{name[:2]}/{name}"
        final = self._directory / relative
        with telling_why():
            os.fsync(self._descriptor)
            final.parent.mkdir(exist_ok=True)
            self._path.rename(final)
            self._path = final
            for folder in (final.parent, self._directory):
                _sync_folder(folder)
            modified_ns = os.fstat(self._descriptor).st_mtime_ns
        return StoredBlob(relative, self._size, self.hash.hexdigest(), modified_ns)

    def close(self) -> None:
        try:
            if not self.kept:
                with suppress(FileNotFoundError):
                    self._path.unlink()
        finally:
            self.release()

    def release(self) -> None:
        """Gives the lock up. Idempotent."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


@contextmanager
def telling_why() -> Generator[None]:
    """*Errors*: InsufficientStorage, ReportsUnwritable in place of any OSError; the path is for the log only."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            reason = error.strerror or str(error)
            raise InsufficientStorage("there is no room for the report", internal=reason) from error
        raise ReportsUnwritable("the reports folder cannot be written to", internal=str(error)) from error


def _create(directory: Path) -> _File:
    incoming = directory / INCOMING
    with telling_why():
        incoming.mkdir(exist_ok=True)
        while True:
            name = secrets.token_hex(16)
            descriptor = os.open(incoming / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return _File(directory, name, descriptor)
            except BlockingIOError:
                pass  # a sweep was quicker: it removes the file
            except BaseException:
                os.close(descriptor)
                with suppress(OSError):
                    (incoming / name).unlink()
                raise
            os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
