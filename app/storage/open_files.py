"""Files that stay open between the requests for them: which are kept and for how long; leases, and reading."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from app.errors import SluiceError
from app.flow.pipelines import open_pipeline
from app.flow.threads import ThreadPool

CHUNK_BYTES = 256 * 1024
_MOST_OPEN = 256
_FRESH_SECONDS = 0.5
_STALE_SECONDS = 1.0
_IDLE_SECONDS = 10.0
_NEVER_CHECKED = float("-inf")
_HEAD_BYTES = 16
# Up to here the bytes of a file that nobody changes are kept with it.
_CONTENT_BYTES = 64 * 1024
# What a file system answers that knows no reads that must not wait (tmpfs, some network ones), or an old kernel.
_CANNOT_NOWAIT = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class BlobTruncated(SluiceError):
    """A file became shorter while it was sent; the answer cannot be completed."""


class OpenFile:
    """A descriptor of a regular file, which it owns, and what the file was when it was looked at.

    checked: when, on the clock of whoever looks, the last look that found this very file under its path began.
    nowait: whether its file system is not known to refuse reads that must not wait; one that does, such as a network's,
    may let even a look at the descriptor wait.
    leases: its users. kept: whether a cache holds it. It is closed once there is neither.
    content: all of it, where it is small, nobody writes to it, and somebody has read it.
    """

    __slots__ = (
        "checked",
        "content",
        "descriptor",
        "head",
        "identity",
        "kept",
        "leases",
        "modified_ns",
        "nowait",
        "size",
    )

    def __init__(self, descriptor: int, status: os.stat_result, checked: float) -> None:
        """*Errors*: OSError where the file cannot be read; the descriptor is then still the caller's."""
        self.head = os.pread(descriptor, _HEAD_BYTES, 0)
        self.descriptor = descriptor
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns
        self.identity = identity_of(status)
        self.checked = checked
        self.nowait = _reads_nowait(descriptor)
        self.leases = 0
        self.kept = False
        self.content: bytes | None = None

    def changed(self) -> bool:
        """Whether it was written, renamed or removed since it was looked at; False where looking might wait."""
        return self.nowait and identity_of(os.fstat(self.descriptor)) != self.identity

    def suspect(self) -> None:
        """Has it looked at again before anybody else gets it."""
        self.checked = _NEVER_CHECKED
        self.content = None


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """Changes whenever a file is replaced or written; begins with what tells a file from all others, `file_id`."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def file_id(status: os.stat_result) -> tuple[int, int]:
    """The same for each name of a file."""
    return status.st_dev, status.st_ino


@dataclass(frozen=True)
class OpenFilesStatistics:
    """open: descriptors, of which ``kept`` are in the cache, which keeps ``size`` at most. leases: users of them.
    hits: leases without a look at the file system. misses: looks, each shared by those who came meanwhile."""

    open: int
    kept: int
    size: int
    leases: int
    hits: int
    misses: int


class OpenFiles:
    """Open files by their path, which is anything that names one.

    Bound: ``size`` files, and 64 KiB of content for each; the least recently used one leaves first; one that is in use
    is closed by its last user.
    One that nobody asked for in 10 s leaves at the next `put` or `sweep`, as it may be the last thing that keeps a
    removed file on the disk.
    """

    def __init__(self, size: int = _MOST_OPEN) -> None:
        self._size = size
        self._files: OrderedDict[str, OpenFile] = OrderedDict()  # the least recently used one first
        self._open: set[OpenFile] = set()
        self._closed = False
        self._hits = 0
        self.misses = 0
        # Counts the times that a file was changed or removed: what was found by a look that began before is not kept.
        self.generation = 0

    def get(self, path: str, now: float, *, looking: bool, fixed: bool = False) -> OpenFile | None:
        """The file at ``path``, if it was there within the last 0.5 s, or 1 s while somebody is ``looking`` again, and
        is not `OpenFile.changed`, which a ``fixed`` one is not asked."""
        file = self._files.get(path)
        if file is None:
            return None
        age = now - file.checked
        if age >= _FRESH_SECONDS and not (looking and age < _STALE_SECONDS):
            return None
        if (
            not fixed and file.changed()
        ):  # what is said of it, its entity tag above all, must be of the bytes that are sent
            return None
        self._files.move_to_end(path)
        self._hits += 1
        return file

    def peek(self, path: str) -> OpenFile | None:
        """The file that was at ``path``, however long ago."""
        return self._files.get(path)

    def put(self, path: str, file: OpenFile) -> None:
        """Keeps what is now at ``path``, unless a later look has been quicker. ``file`` has a lease."""
        held = self._files.get(path)
        if self._closed or (held is not None and held.checked > file.checked):
            return
        if held is not None and held is not file:
            self.drop(path)
        self._files[path] = file
        self._files.move_to_end(path)
        file.kept = True
        self.sweep(file.checked)
        while len(self._files) > self._size:
            self.drop(next(iter(self._files)))

    def drop(self, path: str) -> None:
        """Keeps what is at ``path`` no longer."""
        if (file := self._files.pop(path, None)) is not None:
            file.kept = False
            self.close_unused(file)

    def forget(self, changed: tuple[int, int] | None) -> None:
        """Keeps the file with this `file_id` no longer, whatever its paths, nor anything that is being looked for."""
        self.generation += 1
        for path in [path for path, file in self._files.items() if file.identity[:2] == changed]:
            self.drop(path)

    def sweep(self, now: float) -> None:
        """Drops what nobody asked for lately. (What is used is checked each second.)"""
        while self._files:
            path, file = next(iter(self._files.items()))
            if now - file.checked < _IDLE_SECONDS:
                break
            self.drop(path)

    def add(self, file: OpenFile) -> None:
        """``file`` is a new one, about to get its first lease."""
        self._open.add(file)

    def close(self) -> None:
        """Closes what nobody uses, and keeps nothing from now on. Idempotent."""
        self._closed = True
        for path in list(self._files):
            self.drop(path)

    def statistics(self) -> OpenFilesStatistics:
        return OpenFilesStatistics(
            open=len(self._open),
            kept=len(self._files),
            size=self._size,
            leases=sum(file.leases for file in self._open),
            hits=self._hits,
            misses=self.misses,
        )

    def close_unused(self, file: OpenFile) -> None:
        if not file.leases and not file.kept:
            os.close(file.descriptor)
            file.descriptor = -1
            self._open.remove(file)


def is_stale(began: float, now: float) -> bool:
    """Whether what a look found that began then is too old for somebody who comes now."""
    return now - began >= _STALE_SECONDS


class Blob:
    """A lease of an open file, which others may be reading too.

    size: bytes. modified_ns: nanoseconds since the epoch. identity: changes whenever the file is replaced or written.
    head: its first 16 bytes, enough to tell a media type. Closing is sync and idempotent.

    fixed: whether nobody writes to the file: then what was read of a small one is kept for the next who asks.
    """

    __slots__ = ("_descriptor", "_file", "_files", "_fixed", "_threads", "head", "identity", "modified_ns", "size")

    def __init__(self, file: OpenFile, files: OpenFiles, threads: ThreadPool, *, fixed: bool = False) -> None:
        self._file = file
        self._fixed = fixed
        self._files = files
        self._threads = threads
        self._descriptor = file.descriptor
        self.size = file.size
        self.modified_ns = file.modified_ns
        self.identity = file.identity
        self.head = file.head
        if not (file.leases or file.kept):
            files.add(file)
        file.leases += 1

    @property
    def descriptor(self) -> int:
        """For reading at an offset only, as it is shared; -1 once the lease is closed."""
        return self._descriptor

    def read_nowait(self, start: int, stop: int) -> bytes | bytearray | None:
        """Bytes ``start`` up to ``stop`` where memory has them all; None otherwise, also past the end.

        It copies as long as the part is large: meant for one of `CHUNK_BYTES` at most. *Errors*: OSError.
        """
        if not self._fixed or self.size > _CONTENT_BYTES:
            return self._read_cached(start, stop)
        content = self._file.content
        if content is None:
            if (read := self._read_cached(0, self.size)) is None:
                return None
            self._file.content = content = bytes(read)
        return content[start:stop] if stop <= self.size else None

    def _read_cached(self, start: int, stop: int) -> bytearray | None:
        """From the page cache."""
        if not self._file.nowait:
            return None
        buffer = bytearray(stop - start)
        try:
            count = os.preadv(self._descriptor, (buffer,), start, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _CANNOT_NOWAIT:
                raise
            self._file.nowait = False
            return None
        return buffer if count == len(buffer) else None

    async def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` up to ``stop``, with a thread hop unless the page cache has them (and they fit a chunk).

        *Cancellation*: waits for the thread. *Errors*: BlobTruncated where the file is shorter; OSError.
        """
        await trio.lowlevel.checkpoint()
        if stop - start <= CHUNK_BYTES and (cached := self.read_nowait(start, stop)) is not None:
            return bytes(cached)
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        # A lease of its own: were the file closed meanwhile, its number could already be another file's.
        lease = Blob(self._file, self._files, self._threads)
        try:
            data = await self._threads.run(partial(_read, self._descriptor, start, stop))
        finally:
            lease.close()
        if len(data) < stop - start:
            self._file.suspect()
            raise BlobTruncated("the report became shorter while it was sent")
        if self._fixed and stop - start == self.size <= _CONTENT_BYTES:
            self._file.content = data
        return data

    @asynccontextmanager
    async def chunks(self, start: int, stop: int) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Bytes ``start`` up to ``stop``, in chunks of `CHUNK_BYTES`, read ahead of who takes them.

        Bound: two chunks ahead of what was taken; reading waits when they are full.

        *Cancellation*: leaving the block, however, ends the reading, and waits for the thread.
        *Errors*: at the iteration, BlobTruncated and OSError; what leaves the block is never wrapped in a group.
        """
        # One chunk is in the channel, the other in the hand of who reads.
        async with open_pipeline(self.pieces(start, stop), max_bytes=CHUNK_BYTES) as output:
            yield output

    async def pieces(self, start: int, stop: int, size: int = CHUNK_BYTES) -> AsyncGenerator[bytes]:
        """Bytes ``start`` up to ``stop``, in chunks of ``size``, each read when it is asked for; as `read`."""
        for offset in range(start, stop, size):
            yield await self.read(offset, min(offset + size, stop))

    def close(self) -> None:
        if self._descriptor >= 0:
            self._descriptor = -1
            self._fixed = False
            file = self._file
            file.leases -= 1
            if not (file.leases or file.kept):
                self._files.close_unused(file)


def _reads_nowait(descriptor: int) -> bool:
    try:
        os.preadv(descriptor, (bytearray(1),), 0, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno not in _CANNOT_NOWAIT
    return True


def _read(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes ``start`` up to ``stop``, fewer only at the end of the file."""
    data = os.pread(descriptor, stop - start, start)
    while len(data) < stop - start and (more := os.pread(descriptor, stop - start - len(data), start + len(data))):
        data += more
    return data
