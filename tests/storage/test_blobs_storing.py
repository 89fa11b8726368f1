"""Files that are stored: whole and under a name of their own, or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import aclosing, closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import app.storage.incoming
from app.errors import InsufficientStorage, ReportsUnwritable, StartError
from app.flow.threads import ThreadPool
from app.storage.blobs import BlobUnreadable, LocalBlobs, StoredBlob, open_blobs
from tests.chunks import chunked, failing
from tests.storage.conftest import BYTES, SECRET, content, open_files

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


async def store(blobs: LocalBlobs, data: bytes, suffix: str = ".pdf") -> StoredBlob:
    """A new file that stays."""
    async with blobs.incoming() as upload:
        async with aclosing(chunked(data)) as chunks:
            async for chunk in chunks:
                await upload.write(chunk)
        stored = await upload.finish(suffix)
        upload.keep()
    return stored


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}


async def test_what_is_stored_can_be_read_under_a_name_of_its_own(blobs: LocalBlobs, folder: Path) -> None:
    before = _files(folder)
    stored = [await store(blobs, BYTES) for _ in range(3)]
    assert len({one.path for one in stored}) == 3
    assert _files(folder) - before == {Path(one.path) for one in stored}
    for one in stored:
        assert (one.size, one.digest) == (len(BYTES), sha256(BYTES).hexdigest())
        blob = await blobs.open(one.path)
        assert (blob.size, blob.modified_ns) == (one.size, one.modified_ns)
        assert await content(blob) == BYTES


async def test_nothing_at_all_can_be_stored(blobs: LocalBlobs) -> None:
    stored = await store(blobs, b"")
    assert (stored.size, stored.digest) == (0, sha256(b"").hexdigest())
    assert await content(await blobs.open(stored.path)) == b""


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("odd"), KeyboardInterrupt()])
async def test_a_source_that_fails_in_the_middle_leaves_nothing(
    blobs: LocalBlobs, folder: Path, error: BaseException
) -> None:
    before = _files(folder)
    with pytest.raises(type(error)):
        async with blobs.incoming() as upload:
            async for chunk in failing(BYTES, error):
                await upload.write(chunk)
    assert _files(folder) == before


@pytest.mark.parametrize("name", ["fsync", "rename", "_sync_folder"])
async def test_a_disk_that_fails_while_storing_leaves_nothing(
    blobs: LocalBlobs, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = _files(folder)
    owner = {"fsync": os, "rename": Path, "_sync_folder": app.storage.incoming}[name]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(InsufficientStorage):
            await store(blobs, BYTES)
    assert _files(folder) == before


@pytest.mark.parametrize("was_open", [False, True])
async def test_a_stored_file_can_be_dated_anew(blobs: LocalBlobs, was_open: bool) -> None:
    stored = await store(blobs, b"x", ".bin")
    if was_open:
        (await blobs.open(stored.path)).close()
    dated = await blobs.redate(stored, stored.modified_ns + 10**9)
    with closing(await blobs.open(stored.path)) as blob:
        assert blob.modified_ns == dated.modified_ns == stored.modified_ns + 10**9


# -- removing, and the folder itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../secret.pdf", "out", "missing.pdf", "deep", "\0", "/etc/passwd"])
async def test_only_a_file_within_the_folder_is_removed(blobs: LocalBlobs, folder: Path, path: str) -> None:
    (folder / "out").symlink_to("../secret.pdf")
    before = _files(folder)
    await blobs.remove(path)
    assert _files(folder) == before
    assert (folder.parent / "secret.pdf").read_bytes() == SECRET


@pytest.mark.parametrize("name", ["deep/er/b.pdf", "deep/../deep/er/b.pdf", "link"])
async def test_what_is_removed_by_any_of_its_names_is_closed_and_opened_no_more(
    blobs: LocalBlobs, folder: Path, name: str
) -> None:
    (folder / "link").symlink_to("deep/er/b.pdf")
    for path in ("deep/er/b.pdf", "link"):
        (await blobs.open(path)).close()
    await blobs.remove(name)
    assert open_files(folder) == []
    for path in ("deep/er/b.pdf", "link", name):
        assert blobs.open_nowait(path) is None
        with pytest.raises(BlobUnreadable) as raised:
            await blobs.open(path)
        assert raised.value.gone


async def test_what_somebody_else_has_removed_is_opened_no_more_either(blobs: LocalBlobs, folder: Path) -> None:
    path = "deep/er/b.pdf"
    (await blobs.open(path)).close()
    (folder / "deep" / "er").rename(folder / "moved")
    still = blobs.open_nowait(path)
    assert still is not None  # nobody has told
    still.close()
    await blobs.remove(path)
    assert blobs.open_nowait(path) is None


async def test_a_folder_that_is_missing_is_made_and_one_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    threads = ThreadPool("files", 1)
    await (await open_blobs(tmp_path / "new" / "folder", threads)).probe()
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    for impossible in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartError, match="cannot be used"):
            await open_blobs(impossible, threads)


# -- coming in ---------------------------------------------------------------------------------------------------------


async def test_what_nobody_keeps_is_gone_when_it_is_left_at_any_moment(blobs: LocalBlobs, folder: Path) -> None:
    before = _files(folder)
    for moment in range(4):
        async with blobs.incoming() as upload:
            if moment > 0:
                await upload.write(BYTES)
            if moment > 1:
                await upload.finish(".pdf")
            if moment > 2:
                upload.keep()
                upload.drop()
    assert _files(folder) == before


async def test_an_upload_that_is_cancelled_leaves_nothing(blobs: LocalBlobs, folder: Path) -> None:
    before = _files(folder)
    written = trio.Event()

    async def come_in() -> None:
        async with blobs.incoming() as upload:
            while True:
                await upload.write(BYTES)
                written.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_in)
        await written.wait()
        assert len(_files(folder)) == len(before) + 1
        nursery.cancel_scope.cancel()
    assert _files(folder) == before


@given(st.lists(st.binary(max_size=300), max_size=12), st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_bytes_are_stored_as_they_came_however_they_were_cut(chunks: list[bytes], part: int) -> None:
    async def check(folder: Path) -> None:
        with closing(LocalBlobs(folder, ThreadPool("files", 2))) as blobs:
            async with blobs.incoming() as upload:
                for chunk in chunks:
                    await upload.write(chunk)
                assert upload.head == b"".join(chunks)[: len(upload.head)]
                assert len(upload.head) == min(16, len(b"".join(chunks)))
                assert await upload.digest() == sha256(b"".join(chunks)).digest()
                stored = await upload.finish(".bin")
                assert (folder / stored.path).read_bytes() == b"".join(chunks)
                assert stored.digest == sha256(b"".join(chunks)).hexdigest()

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(app.storage.incoming, "_PART_BYTES", part)
        trio.run(check, Path(folder))


async def test_a_file_that_a_sweep_has_locked_first_is_not_used(
    blobs: LocalBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a file's first moment and its lock a sweep may be quicker: it locks it, or has removed it already."""
    flock, turns = fcntl.flock, ["locked", "removed"]
    swept: list[int] = []

    def raced(descriptor: int, operation: int) -> None:
        if turns:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            other = os.open(path, os.O_RDONLY)
            flock(other, operation)
            path.unlink()
            if turns.pop(0) == "locked":
                swept.append(other)
            else:
                os.close(other)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", raced)
    before = _files(folder)
    stored = await store(blobs, BYTES)
    for descriptor in swept:
        os.close(descriptor)
    assert turns == []
    assert _files(folder) == before | {Path(stored.path)}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
async def test_only_a_disk_that_is_full_is_told_as_one(
    blobs: LocalBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def write(_descriptor: int, _data: object) -> int:
        raise OSError(error, os.strerror(error))

    before = _files(folder)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(ReportsUnwritable if error == errno.EIO else InsufficientStorage):
        await store(blobs, BYTES)
    monkeypatch.undo()
    assert _files(folder) == before
