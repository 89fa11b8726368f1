"""Reports as files below one folder: opened safely, read in chunks, stored whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from app.errors import SluiceError, StartError
from app.flow.threads import ThreadPool

CHUNK_BYTES = 128 * 1024
_INCOMING = ".incoming"


class BlobUnreadable(Exception):
    """No regular file below the folder stands at that path. ``gone``: there is nothing at all."""

    def __init__(self, path: str, reason: str, *, gone: bool = False) -> None:
        super().__init__(f"{path!r}: {reason}")
        self.gone = gone


class BlobTruncated(SluiceError):
    """A file became shorter while it was sent; the answer cannot be completed."""


@dataclass(frozen=True)
class StoredBlob:
    """A file that was stored: its path relative to the folder, bytes, SHA-256 (hex) and modification time."""

    path: str
    size: int
    digest: str
    modified_ns: int


class Blob:
    """An open file.

    size: bytes. modified_ns: nanoseconds since the epoch. identity: changes whenever the file is replaced or written.
    head: its first bytes, as many as fit a chunk. Closing is sync and idempotent.
    """

    def __init__(self, descriptor: int, threads: ThreadPool) -> None:
        self._descriptor = descriptor
        self._threads = threads
        status = os.fstat(descriptor)
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns
        self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        self.head = os.pread(descriptor, CHUNK_BYTES, 0)

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes]:
        """Bytes ``start`` up to ``stop``, in chunks of `CHUNK_BYTES`, one thread hop each (none for the first chunk
        of the file, which came with opening it).

        *Errors*: BlobTruncated where the file has become shorter than it was.
        """
        while start < stop:
            length = min(CHUNK_BYTES, stop - start)
            if start + length <= len(self.head):
                chunk = self.head[start : start + length]
            else:
                chunk = await self._threads.run(partial(os.pread, self._descriptor, length, start))
            if not chunk:
                raise BlobTruncated("the report became shorter while it was sent")
            start += len(chunk)
            yield chunk

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class LocalBlobs:
    """The files below ``directory``.

    A path is relative to the directory, or absolute inside it. Symbolic links are followed as long as they stay
    inside; ``..`` that leaves it, devices, FIFOs, sockets and folders are refused without being opened.
    """

    def __init__(self, directory: Path, threads: ThreadPool) -> None:
        self._directory = directory
        self._threads = threads
        self._probing = ThreadPool("probe", 1)

    async def open(self, path: str) -> Blob:
        """*Errors*: BlobUnreadable. *Cancellation*: waits for the thread, and leaves nothing open."""
        return await self._threads.run(partial(self._open, path))

    async def store(self, source: BinaryIO, *, suffix: str) -> StoredBlob:
        """Copies ``source`` into a new file with a name of its own, durable when this returns.

        *Errors*: OSError; nothing is left behind.
        """
        return await self._threads.run(partial(self._store, source, suffix))

    async def redate(self, blob: StoredBlob, modified_ns: int) -> StoredBlob:
        """Gives a file that nobody reads yet another modification time."""
        await self._threads.run(partial(os.utime, self._directory / blob.path, ns=(modified_ns, modified_ns)))
        return replace(blob, modified_ns=modified_ns)

    async def remove(self, path: str) -> None:
        """Removes a file below the folder, where it is there."""
        await self._threads.run(partial(self._remove, path))

    async def probe(self) -> None:
        """Whether the folder can be listed and written to. *Errors*: OSError.

        *Cancellation*: at once, even where the file system hangs; at most one thread is left behind with it.
        """
        await self._probing.run_or_abandon(self._probe)

    def _open(self, path: str) -> Blob:
        root = os.path.realpath(self._directory)
        inside = self._resolve(root, path)
        try:
            descriptor = _open_beneath(root, inside)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BlobUnreadable(path, "is no regular file")
            return Blob(descriptor, self._threads)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise _unreadable(path, error) from error
            raise

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

    def _store(self, source: BinaryIO, suffix: str) -> StoredBlob:
        incoming = self._directory / _INCOMING
        incoming.mkdir(exist_ok=True)
        name = secrets.token_hex(16) + suffix
        temporary = incoming / name
        final = self._directory / name[:2] / name
        try:
            with temporary.open("xb") as target:
                digest, size = _copy(source, target)
                target.flush()
                os.fsync(target.fileno())
            final.parent.mkdir(exist_ok=True)
            temporary.rename(final)
            for folder in (final.parent, self._directory):
                _sync_folder(folder)
        except BaseException:
            for left in (temporary, final):
                left.unlink(missing_ok=True)
            raise
        return StoredBlob(f"{name[:2]}/{name}", size, digest, final.stat().st_mtime_ns)

    def _remove(self, path: str) -> None:
        root = os.path.realpath(self._directory)
        with suppress(BlobUnreadable, FileNotFoundError):
            os.unlink(os.path.join(root, *self._resolve(root, path)))

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


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[str, int]:
    digest, size = sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
