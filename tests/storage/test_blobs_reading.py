"""Reading: without a thread where the page cache has it, in a thread otherwise, ahead of the client within a bound."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from app.flow.threads import ThreadPool
from app.storage.blobs import CHUNK_BYTES, Blob, BlobTruncated, LocalBlobs
from tests.storage.conftest import BYTES, Clock

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


def _evict(blob: Blob) -> None:
    """Drops the file from the page cache."""
    os.fsync(blob.descriptor)
    os.posix_fadvise(blob.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class _Threads(ThreadPool):
    """Counts the hops."""

    def __init__(self) -> None:
        super().__init__("files", 4)
        self.hops = 0

    async def run[T](self, call: Callable[[], T]) -> T:
        self.hops += 1
        return await super().run(call)


@pytest.fixture
def threads(blobs: LocalBlobs) -> _Threads:
    blobs._threads = threads = _Threads()
    return threads


async def test_what_the_page_cache_has_is_read_without_a_thread(blobs: LocalBlobs, threads: _Threads) -> None:
    with closing(await blobs.open("a.pdf")) as blob:
        await blob.read(0, blob.size)  # now it has it
        if blob.read_nowait(0, 1) is None:
            pytest.skip("this file system cannot say what the page cache has")
        hops = threads.hops
        assert blob.read_nowait(5, CHUNK_BYTES) == BYTES[5:CHUNK_BYTES]
        assert blob.read_nowait(0, 0) == b""
        assert await blob.read(5, 5 + CHUNK_BYTES) == BYTES[5 : 5 + CHUNK_BYTES]
        async with blob.chunks(0, blob.size) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == BYTES
        assert threads.hops == hops
        await blob.read(0, CHUNK_BYTES + 1)  # too much to copy between two turns of the loop
        assert threads.hops == hops + 1
        assert blob.read_nowait(len(BYTES) - 1, len(BYTES) + 1) is None


async def test_what_the_page_cache_does_not_have_is_read_in_a_thread(blobs: LocalBlobs, threads: _Threads) -> None:
    with closing(await blobs.open("a.pdf")) as blob:
        await blob.read(0, blob.size)
        if blob.read_nowait(0, 1) is None:
            pytest.skip("this file system cannot say what the page cache has")
        _evict(blob)
        if blob.read_nowait(0, CHUNK_BYTES) is not None:
            pytest.skip("this file system keeps its pages")
        _evict(blob)
        hops = threads.hops
        assert await blob.read(0, CHUNK_BYTES) == BYTES[:CHUNK_BYTES]
        assert threads.hops == hops + 1
        assert blob.read_nowait(0, CHUNK_BYTES) == BYTES[:CHUNK_BYTES]  # is tried again


@pytest.mark.parametrize("nowait", [True, False])
async def test_a_small_file_that_nobody_changes_is_read_once(
    blobs: LocalBlobs, folder: Path, threads: _Threads, monkeypatch: pytest.MonkeyPatch, nowait: bool
) -> None:
    (folder / "small.pdf").write_bytes(BYTES[:50_000])
    with closing(await blobs.open("small.pdf")) as blob:
        blob._file.nowait = nowait
    with closing(_open(blobs, "small.pdf")) as blob:
        assert await blob.read(0, blob.size) == BYTES[:50_000]
    monkeypatch.setattr(os, "preadv", preadv := _Preadv(0))
    with closing(_open(blobs, "small.pdf")) as blob:
        hops = threads.hops
        assert blob.read_nowait(0, blob.size) == BYTES[:50_000]
        assert blob.read_nowait(7, 99) == BYTES[7:99]
        assert await blob.read(7, 99) == BYTES[7:99]
        assert blob.read_nowait(0, blob.size + 1) is None
        assert (preadv.calls, threads.hops) == (0, hops)
        with closing(_open(blobs, "small.pdf", fixed=False)) as other:
            other._file.nowait = True
            assert other.read_nowait(0, 5) == BYTES[:5]  # who does not know that it stays as it is has to look
        assert preadv.calls == 1
    with pytest.raises(OSError, match="descriptor"):
        await blob.read(0, 5)


async def test_a_small_file_is_read_anew_when_it_is_another(blobs: LocalBlobs, folder: Path, clock: Clock) -> None:
    (folder / "small.pdf").write_bytes(b"old")
    with closing(await blobs.open("small.pdf")):
        pass
    with closing(_open(blobs, "small.pdf")) as blob:
        assert await blob.read(0, 3) == b"old"
    (folder / "small.pdf").unlink()
    (folder / "small.pdf").write_bytes(b"new")
    clock.now += 1
    with closing(await blobs.open("small.pdf")) as blob:
        assert await blob.read(0, 3) == b"new"
    with closing(_open(blobs, "small.pdf")) as blob:
        assert await blob.read(0, 3) == b"new"


async def test_a_large_file_is_not_kept_in_memory(blobs: LocalBlobs) -> None:
    with closing(await blobs.open("a.pdf")):
        pass
    with closing(_open(blobs, "a.pdf")) as blob:
        assert await blob.read(0, blob.size) == BYTES
        assert blob._file.content is None


def _open(blobs: LocalBlobs, path: str, *, fixed: bool = True) -> Blob:
    blob = blobs.open_nowait(path, fixed=fixed)
    assert blob is not None
    return blob


class _Preadv:
    """`os.preadv` that answers with an error, or with that many bytes less."""

    def __init__(self, answer: OSError | int) -> None:
        self.answer = answer
        self.calls = 0

    def __call__(self, descriptor: int, buffers: Sequence[bytearray], start: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT
        self.calls += 1
        if isinstance(self.answer, OSError):
            raise self.answer
        data = os.pread(descriptor, len(buffers[0]), start)
        buffers[0][: len(data)] = data
        return len(data) - self.answer


@pytest.mark.parametrize(
    ("answer", "tried_again"),
    [
        (0, True),
        (1, True),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), True),
        (OSError(errno.EOPNOTSUPP, "Operation not supported"), False),
        (OSError(errno.ENOSYS, "Function not implemented"), False),
        (OSError(errno.EINVAL, "Invalid argument"), False),
    ],
)
async def test_where_it_cannot_be_read_without_waiting_a_thread_reads(
    blobs: LocalBlobs, threads: _Threads, monkeypatch: pytest.MonkeyPatch, answer: OSError | int, tried_again: bool
) -> None:
    monkeypatch.setattr(os, "preadv", preadv := _Preadv(answer))
    with closing(await blobs.open("a.pdf")) as blob:
        hops = threads.hops
        assert blob.read_nowait(5, 100) == (BYTES[5:100] if answer == 0 else None)
        assert await blob.read(5, 100) == BYTES[5:100]
        with closing(await blobs.open("a.pdf")) as other:  # the file is remembered, not its lease
            assert await other.read(5, 100) == BYTES[5:100]
        assert threads.hops == hops + (0 if answer == 0 else 2)
        assert preadv.calls == (4 if tried_again else 1)  # the first at the opening


async def test_a_disk_that_fails_is_no_reason_to_ask_it_again(
    blobs: LocalBlobs, threads: _Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", _Preadv(OSError(errno.EIO, "Input/output error")))
    with closing(await blobs.open("a.pdf")) as blob:
        with pytest.raises(OSError, match="Input/output"):
            await blob.read(0, 1)
        assert threads.hops == 1  # that of the opening


async def test_a_read_of_fewer_bytes_than_there_are_goes_on(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    with closing(await blobs.open("a.pdf")) as blob:
        monkeypatch.setattr(os, "pread", lambda descriptor, length, start: pread(descriptor, min(length, 7), start))
        monkeypatch.setattr(os, "preadv", _Preadv(1))
        assert await blob.read(3, 30) == BYTES[3:30]


@pytest.mark.usefixtures("_in_threads")
async def test_a_file_that_is_closed_by_its_reader_stays_open_until_the_thread_has_read(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = _Reads(monkeypatch, hold=1)
    blob = await blobs.open("a.pdf")
    blobs.close()
    received: list[bytes] = []

    async def read() -> None:
        received.append(await blob.read(0, 100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await reads.there.wait()
        blob.close()  # were it closed here, the thread could read another file by the same number
        reads.go_on.set()
    assert received == [BYTES[:100]]


async def test_openings_and_reads_are_checkpoints(blobs: LocalBlobs) -> None:
    for _ in range(2):
        with assert_checkpoints():
            blob = await blobs.open("a.pdf")
        with closing(blob), assert_checkpoints():
            await blob.read(0, 10)


# -- reading ahead -----------------------------------------------------------------------------------------------------


class _Reads:
    """Counts the reads of whole chunks, in threads, and holds up the chosen one until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, hold: float = math.inf) -> None:
        self.count = 0
        self.there, self.go_on = trio.Event(), threading.Event()
        token, pread = trio.lowlevel.current_trio_token(), os.pread

        def counted(descriptor: int, length: int, start: int) -> bytes:
            if length > 16:  # not the head
                self.count += 1
                if self.count == hold:
                    token.run_sync_soon(self.there.set)
                    assert self.go_on.wait(30)
            return pread(descriptor, length, start)

        monkeypatch.setattr(os, "pread", counted)


@pytest.fixture
def _in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be read without a thread."""
    monkeypatch.setattr(os, "preadv", _Preadv(OSError(errno.EOPNOTSUPP, "Operation not supported")))


@pytest.mark.usefixtures("_in_threads")
async def test_at_most_two_chunks_are_read_ahead_of_what_is_taken(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = _Reads(monkeypatch)
    with closing(await blobs.open("a.pdf")) as blob:
        number = -(-blob.size // CHUNK_BYTES)
        assert number > 4
        async with blob.chunks(0, blob.size) as chunks:
            await _until(lambda: reads.count == 2)
            taken = 0
            async for _ in chunks:
                taken += 1
                await _until(lambda: reads.count == min(taken + 2, number))  # noqa: B023  # used at once
    assert taken == reads.count == number


async def _until(reached: Callable[[], bool]) -> None:
    """Waits until it is so, then for a while that it stays so."""
    with trio.fail_after(30):
        while not reached():  # noqa: ASYNC110  # counts what threads do
            await trio.sleep(0.001)
    await wait_all_tasks_blocked(0.01)
    assert reached()


async def test_a_reader_that_is_cancelled_does_not_look_done(blobs: LocalBlobs) -> None:
    failed: list[Exception] = []
    with closing(await blobs.open("a.pdf")) as blob, trio.CancelScope() as scope:
        async with blob.chunks(0, blob.size) as chunks:
            await wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                try:
                    async for _ in chunks:
                        await wait_all_tasks_blocked()
                except trio.BrokenResourceError as error:
                    failed.append(error)
    assert len(failed) == 1


@pytest.mark.usefixtures("_in_threads")
async def test_who_leaves_early_ends_the_reading(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = _Reads(monkeypatch)
    with closing(await blobs.open("a.pdf")) as blob:
        async with blob.chunks(0, blob.size) as chunks:
            async for chunk in chunks:
                assert chunk == BYTES[:CHUNK_BYTES]
                break
        count = reads.count
        assert count <= 3
        await wait_all_tasks_blocked(0.01)
        assert reads.count == count
        assert blobs.statistics().leases == 1
        with pytest.raises(trio.ClosedResourceError):
            await anext(aiter(chunks))


class _Broken(Exception):
    pass


@pytest.mark.parametrize("error", [_Broken("odd"), OSError(errno.EPIPE, "Broken pipe"), KeyboardInterrupt()])
async def test_an_error_of_who_takes_the_chunks_leaves_as_it_is(blobs: LocalBlobs, error: BaseException) -> None:
    with closing(await blobs.open("a.pdf")) as blob:
        with pytest.raises(type(error)) as raised:
            async with blob.chunks(0, blob.size) as chunks:
                await anext(aiter(chunks))
                raise error
        assert raised.value is error


async def test_an_error_is_not_lost_where_all_are_cancelled_at_the_same_time(blobs: LocalBlobs) -> None:
    with closing(await blobs.open("a.pdf")) as blob, pytest.raises(_Broken), trio.CancelScope() as scope:
        async with blob.chunks(0, blob.size) as chunks:
            await anext(aiter(chunks))
            scope.cancel()
            raise _Broken


async def test_an_error_of_the_disk_leaves_as_it_is_after_what_was_read(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    with closing(await blobs.open("a.pdf")) as blob:
        pread = os.pread

        def broken(descriptor: int, length: int, start: int) -> bytes:
            if start >= 2 * CHUNK_BYTES:
                raise OSError(errno.EIO, "Input/output error")
            return pread(descriptor, length, start)

        monkeypatch.setattr(os, "preadv", _Preadv(1))
        monkeypatch.setattr(os, "pread", broken)
        with pytest.raises(OSError, match="Input/output"):
            async with blob.chunks(0, blob.size) as chunks:
                async for chunk in chunks:
                    received.append(chunk)
    assert b"".join(received) == BYTES[: 2 * CHUNK_BYTES]


async def test_a_file_that_ends_early_is_truncated(blobs: LocalBlobs) -> None:
    with closing(await blobs.open("a.pdf")) as blob, pytest.raises(BlobTruncated):
        async with blob.chunks(blob.size - 5, blob.size + 1) as chunks:
            _ = [chunk async for chunk in chunks]


@pytest.mark.usefixtures("_in_threads")
@pytest.mark.parametrize("where", ["taking", "elsewhere"])
async def test_a_cancelled_taker_waits_for_the_thread_and_leaves_nothing(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    reads = _Reads(monkeypatch, hold=1)
    caught: list[BaseException] = []

    async def take() -> None:
        with closing(await blobs.open("a.pdf")) as blob:
            try:
                async with blob.chunks(0, blob.size) as chunks:
                    if where == "taking":
                        await anext(aiter(chunks))
                    await trio.sleep_forever()
            except BaseException as error:
                caught.append(error)
                assert reads.go_on.is_set()
                raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await reads.there.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            assert not caught  # the thread still reads
            assert blobs.statistics().leases == 2  # its own too
            reads.go_on.set()
    assert [type(error) for error in caught] == [trio.Cancelled]
    assert reads.count == 1
    assert blobs.statistics().leases == 0


@pytest.mark.usefixtures("_in_threads")
async def test_a_read_that_is_cancelled_before_it_has_a_thread_leaves_nothing(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs._threads = ThreadPool("files", 1)
    reads = _Reads(monkeypatch, hold=1)
    with closing(await blobs.open("a.pdf")) as blob:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blob.read, 0, 100)
            await reads.there.wait()
            with trio.CancelScope() as scope:
                nursery.start_soon(_cancel_when_blocked, scope)
                await blob.read(0, 100)
            assert scope.cancelled_caught
            assert blobs.statistics().leases == 2
            reads.go_on.set()
        assert reads.count == 1
    assert blobs.statistics().leases == 0


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()
