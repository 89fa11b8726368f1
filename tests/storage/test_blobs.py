"""The reports folder: nothing outside it is read, nothing in it blocks, nothing stays open."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from app.flow.threads import ThreadPool
from app.storage.blobs import CHUNK_BYTES, Blob, BlobTruncated, BlobUnreadable, LocalBlobs
from tests.storage.conftest import BYTES, SECRET, Clock, content

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


async def _refusal(blobs: LocalBlobs, path: str) -> BlobUnreadable:
    with trio.fail_after(30), pytest.raises(BlobUnreadable) as raised:
        (await blobs.open(path)).close()
    return raised.value


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["a.pdf", "./a.pdf", "deep/../a.pdf", "deep//er/b.pdf", "../reports/a.pdf", "deep/er/b.pdf"]
)
async def test_a_path_that_stays_inside_is_read(blobs: LocalBlobs, path: str) -> None:
    assert await content(await blobs.open(path)) == BYTES


async def test_an_absolute_path_inside_is_read(blobs: LocalBlobs, folder: Path) -> None:
    assert await content(await blobs.open(str(folder / "a.pdf"))) == BYTES


async def test_a_folder_that_is_itself_a_link_is_read_by_both_its_names(folder: Path) -> None:
    (link := folder.parent / "link").symlink_to(folder)
    with closing(LocalBlobs(link, ThreadPool("files", 4))) as blobs:
        for path in ("a.pdf", str(link / "a.pdf"), str(folder / "a.pdf")):
            assert await content(await blobs.open(path)) == BYTES


@pytest.mark.parametrize("target", ["a.pdf", "deep/er/b.pdf", "{folder}/a.pdf", "other", "via/er/b.pdf"])
async def test_a_link_that_stays_inside_is_followed(blobs: LocalBlobs, folder: Path, target: str) -> None:
    (folder / "other").symlink_to("a.pdf")
    (folder / "via").symlink_to("deep")
    (folder / "link").symlink_to(target.format(folder=folder))
    assert await content(await blobs.open("link")) == BYTES


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 0),
        (0, 1),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (5, len(BYTES)),
        (len(BYTES) - 1, len(BYTES)),
    ],
)
async def test_any_part_is_read_in_chunks_that_are_never_larger_than_one(
    blobs: LocalBlobs, start: int, stop: int
) -> None:
    with closing(await blobs.open("a.pdf")) as blob:
        async with blob.chunks(start, stop) as reading:
            chunks = [chunk async for chunk in reading]
        assert await blob.read(start, stop) == BYTES[start:stop]
    assert b"".join(chunks) == BYTES[start:stop]
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret.pdf",
        "deep/../../secret.pdf",
        "deep/er/../../../secret.pdf",
        "{folder}/../secret.pdf",
        "{outside}/secret.pdf",
        "/etc/passwd",
        "//etc/passwd",
        "../reports-of-others/secret.pdf",
        "out",
        "absolutely-out",
        "up/secret.pdf",
        "up/../secret.pdf",
        "chain",
    ],
)
async def test_a_path_that_leaves_the_folder_is_refused_though_there_is_a_file(
    blobs: LocalBlobs, folder: Path, path: str
) -> None:
    (others := folder.parent / "reports-of-others").mkdir()
    (others / "secret.pdf").write_bytes(SECRET)
    (folder / "out").symlink_to("../secret.pdf")
    (folder / "absolutely-out").symlink_to(folder.parent / "secret.pdf")
    (folder / "up").symlink_to("..")
    (folder / "chain").symlink_to("out")
    refusal = await _refusal(blobs, path.format(folder=folder, outside=folder.parent))
    assert not refusal.gone
    assert "leaves the reports folder" in str(refusal)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [Path.mkdir, _fifo, _unix_socket])
async def test_what_is_no_regular_file_is_refused_without_blocking(
    blobs: LocalBlobs, folder: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # the name of a socket has to be short
    make(Path("odd"))
    (folder / "link").symlink_to("odd")
    for path in ("odd", "link"):
        assert "no regular file" in str(await _refusal(blobs, path))


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "/proc/self/mem"])
async def test_a_device_is_refused(blobs: LocalBlobs, folder: Path, target: str) -> None:
    (folder / "device").symlink_to(target)
    assert not (await _refusal(blobs, "device")).gone


@pytest.mark.parametrize("path", ["", ".", "/", "deep", "deep/", "{folder}"])
async def test_a_folder_is_no_report(blobs: LocalBlobs, folder: Path, path: str) -> None:
    assert not (await _refusal(blobs, path.format(folder=folder))).gone


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("missing.pdf", True),
        ("deep/missing/b.pdf", True),
        ("a.pdf/b.pdf", True),
        ("dangling", True),
        ("a.pdf\0", False),
        ("\0", False),
        ("\ud800.pdf", False),
        ("\udcff.pdf", True),
        ("x" * 300, False),
        ("x/" * 5000, False),
        ("loop", False),
        ("round/b.pdf", False),
    ],
)
async def test_what_no_file_can_be_called_is_unreadable_and_only_what_is_missing_is_gone(
    blobs: LocalBlobs, folder: Path, path: str, gone: bool
) -> None:
    (folder / "dangling").symlink_to("missing.pdf")
    (folder / "loop").symlink_to("loop")
    (folder / "round").symlink_to("trip")
    (folder / "trip").symlink_to("round")
    refusal = await _refusal(blobs, path)
    assert refusal.gone == gone
    str(refusal).encode()  # what goes to the log can be written there


@pytest.mark.parametrize("file", ["a.pdf", "deep"])
async def test_a_link_that_is_swapped_in_after_the_look_is_not_followed(
    blobs: LocalBlobs, folder: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = folder.parent / "outside"
    (outside / "er").mkdir(parents=True)
    (outside / "er" / "b.pdf").write_bytes(SECRET)
    look = LocalBlobs._resolve

    def look_then_swap(self: LocalBlobs, root: str, path: str) -> list[str]:
        parts = look(self, root, path)
        (folder / file).rename(folder / "moved")
        (folder / file).symlink_to(outside if file == "deep" else outside / "er" / "b.pdf")
        return parts

    monkeypatch.setattr(LocalBlobs, "_resolve", look_then_swap)
    await _refusal(blobs, "deep/er/b.pdf" if file == "deep" else file)


async def test_a_fifo_that_is_swapped_in_after_the_look_does_not_block(
    blobs: LocalBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = LocalBlobs._resolve

    def look_then_swap(self: LocalBlobs, root: str, path: str) -> list[str]:
        parts = look(self, root, path)
        (folder / "a.pdf").unlink()
        os.mkfifo(folder / "a.pdf")
        return parts

    monkeypatch.setattr(LocalBlobs, "_resolve", look_then_swap)
    assert "no regular file" in str(await _refusal(blobs, "a.pdf"))


async def test_a_read_that_fails_at_opening_is_unreadable(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int, _length: int, _start: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    assert not (await _refusal(blobs, "a.pdf")).gone


# -- what changes while it is read -------------------------------------------------------------------------------------


async def test_a_file_that_becomes_shorter_while_it_is_read_is_truncated_not_complete(
    blobs: LocalBlobs, folder: Path
) -> None:
    left = 3 * CHUNK_BYTES - 7  # the third chunk may have been read ahead when the first one is taken
    with closing(await blobs.open("a.pdf")) as blob:
        received = b""
        with pytest.raises(BlobTruncated):
            async with blob.chunks(0, blob.size) as chunks:
                async for chunk in chunks:
                    received += chunk
                    os.truncate(folder / "a.pdf", left)
        assert received == BYTES[: len(received)]
        assert len(received) in {2 * CHUNK_BYTES, 3 * CHUNK_BYTES}
        assert await blob.read(CHUNK_BYTES, left) == BYTES[CHUNK_BYTES:left]
        with pytest.raises(BlobTruncated):
            await blob.read(left - 1, left + 1)
    # Known to be wrong, it is given to nobody else.
    assert blobs.open_nowait("a.pdf") is None
    with closing(await blobs.open("a.pdf")) as anew:
        assert anew.size == left


async def test_who_reads_a_file_that_is_removed_gets_it_whole(blobs: LocalBlobs, folder: Path) -> None:
    blob = await blobs.open("a.pdf")
    await blobs.remove("a.pdf")
    assert not (folder / "a.pdf").exists()
    assert await content(blob) == BYTES


@pytest.mark.parametrize("how", ["renamed over", "written in place"])
async def test_a_file_that_others_replace_has_another_identity(
    blobs: LocalBlobs, folder: Path, clock: Clock, how: str
) -> None:
    with closing(await blobs.open("a.pdf")) as before:
        pass
    os.utime(folder / "a.pdf", ns=(0, before.modified_ns))  # so that the time alone does not tell
    clock.now += 1
    with closing(await blobs.open("a.pdf")) as same:
        if how == "renamed over":
            (folder / "new").write_bytes(BYTES[::-1])
            (folder / "new").rename(folder / "a.pdf")
        else:
            (folder / "a.pdf").write_bytes(BYTES[::-1])
        os.utime(folder / "a.pdf", ns=(0, before.modified_ns))
    clock.now += 1
    with closing(await blobs.open("a.pdf")) as after:
        assert (after.size, after.modified_ns) == (same.size, same.modified_ns)
        assert after.identity != same.identity


@pytest.mark.parametrize("nowait", [True, False])
async def test_closing_is_idempotent_and_nothing_is_read_afterwards(blobs: LocalBlobs, nowait: bool) -> None:
    blob, other = await blobs.open("a.pdf"), await blobs.open("a.pdf")
    assert blob.descriptor == other.descriptor >= 0
    blob._file.nowait = nowait
    blob.close()
    blob.close()
    assert blob.descriptor == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        await blob.read(0, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        async with blob.chunks(CHUNK_BYTES, blob.size) as chunks:
            _ = [chunk async for chunk in chunks]
    assert await content(other) == BYTES
    blobs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await blob.read(0, 1)
    assert (blobs.statistics().open, blobs.statistics().leases) == (0, 0)


async def test_an_opening_that_is_cancelled_leaves_nothing_open(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    look = LocalBlobs._resolve
    opened: list[Blob] = []

    def slow(self: LocalBlobs, root: str, path: str) -> list[str]:
        token.run_sync_soon(begun.set)
        go_on.wait(30)
        return look(self, root, path)

    monkeypatch.setattr(LocalBlobs, "_resolve", slow)

    async def open_one() -> None:
        blob = await blobs.open("a.pdf")
        opened.append(blob)
        blob.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_one)
        await begun.wait()
        nursery.cancel_scope.cancel()
        go_on.set()
    # Waited for, and handed over: whoever asked closes it. That no descriptor is left, the fixture looks after.
    assert len(opened) == 1
