"""What a crash leaves in the folder is removed, and nothing else, whoever else uses it at the same time."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

import app.storage.sweep
from app.flow.threads import ThreadPool
from app.storage.blobs import LocalBlobs
from app.storage.incoming import INCOMING, is_stored_path
from tests.storage.conftest import BYTES
from tests.storage.test_blobs_storing import store

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


class Rows:
    """The paths that rows name, and what was asked."""

    def __init__(self, *paths: str) -> None:
        self.paths = set(paths)
        self.asked: list[tuple[list[str], bool]] = []

    async def named(self, paths: Sequence[str], settled: bool) -> set[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append((list(paths), settled))
        return self.paths & set(paths)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def _orphan(folder: Path, path: str | None = None) -> str:
    """A file as a crash leaves it."""
    name = secrets.token_hex(16) + ".pdf"
    path = path or f"{name[:2]}/{name}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(b"left behind")
    return path


async def test_orphans_are_removed_and_what_rows_name_stays(blobs: LocalBlobs, folder: Path) -> None:
    before = _files(folder)
    kept = [(await store(blobs, b"x")).path for _ in range(3)]
    for _ in range(3):
        _orphan(folder)
    _orphan(folder, f"{INCOMING}/{secrets.token_hex(16)}")
    _orphan(folder, f"{INCOMING}/{secrets.token_hex(16)}.pdf")
    assert await blobs.sweep(Rows(*kept).named) == 5
    assert _files(folder) == before | set(kept)
    assert await blobs.sweep(Rows(*kept).named) == 0


@pytest.mark.parametrize(
    "path",
    [
        "report.pdf",
        "ab/report.pdf",
        f"ab/{'cd' * 16}.pdf",
        f"ab/{'ab' * 16}",
        f"ab/{'ab' * 16}.pdf.bak",
        f"ab/{'AB' * 16}.pdf",
        f"ab/{'ab' * 15}.pdf",
        f"AB/{'ab' * 16}.pdf",
        f"deep/{'de' * 16}.pdf",
        f"{'ab' * 16}.pdf",
        f"{INCOMING}/notes.txt",
        f"{INCOMING}/.{'ab' * 16}",
        f".probe-{'ab' * 8}",
    ],
)
async def test_what_has_no_name_of_ours_is_never_removed(blobs: LocalBlobs, folder: Path, path: str) -> None:
    _orphan(folder, path)
    assert not is_stored_path(path)
    assert await blobs.sweep(Rows().named) == 0
    assert (folder / path).exists()


async def test_what_is_no_file_or_behind_a_link_is_never_removed(blobs: LocalBlobs, folder: Path) -> None:
    outside = folder.parent / "outside"
    orphan = _orphan(outside.parent, f"outside/{'ab' * 16}.pdf")
    (folder / "ab").symlink_to(outside)
    (folder / "cd").mkdir()
    (folder / "cd" / f"{'cd' * 16}.pdf").symlink_to(folder.parent / "secret.pdf")
    (folder / "ce").mkdir()
    (folder / "ce" / f"{'ce' * 16}.pdf").mkdir()
    os.mkfifo(folder / "ce" / f"{'ce' * 15}cf.pdf")
    (folder / "cf").write_bytes(b"no folder")
    before = _files(folder)
    assert await blobs.sweep(Rows().named) == 0
    assert _files(folder) == before
    assert (folder.parent / orphan).exists()


async def test_a_row_may_name_a_file_by_its_absolute_path_or_in_another_case(folder: Path) -> None:
    folder /= "Reports"
    absolute, shouted = _orphan(folder), _orphan(folder)
    blobs = LocalBlobs(folder, ThreadPool("files", 1))
    rows = Rows(str(folder / absolute))

    async def named(paths: Sequence[str], settled: bool) -> set[str]:
        return await rows.named(paths, settled) | {path.upper() for path in paths if path == shouted}

    assert await blobs.sweep(named) == 0
    assert {absolute, shouted} <= _files(folder)


async def test_an_upload_is_left_alone_from_its_first_moment_to_its_last(blobs: LocalBlobs, folder: Path) -> None:
    before, rows = _files(folder), Rows()
    async with blobs.incoming() as upload:
        assert await blobs.sweep(rows.named) == 0
        await upload.write(BYTES)
        await upload.digest()
        assert await blobs.sweep(rows.named) == 0
        stored = await upload.finish(".pdf")
        assert await blobs.sweep(rows.named) == 0
        upload.keep()
        assert await blobs.sweep(rows.named) == 0
    assert _files(folder) == before | {stored.path}
    assert await blobs.sweep(Rows(stored.path).named) == 0
    assert await blobs.sweep(rows.named) == 1  # a row was never committed


async def test_a_file_that_another_process_has_locked_is_left_alone(blobs: LocalBlobs, folder: Path) -> None:
    path = _orphan(folder)
    with (folder / path).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert await blobs.sweep(Rows().named) == 0
    assert await blobs.sweep(Rows().named) == 1


async def test_a_row_that_is_committed_after_the_first_question_keeps_its_file(blobs: LocalBlobs, folder: Path) -> None:
    path, rows = _orphan(folder), Rows()

    async def named(paths: Sequence[str], settled: bool) -> set[str]:
        if settled:
            rows.paths.add(path)
        return await rows.named(paths, settled)

    assert await blobs.sweep(named) == 0
    assert path in _files(folder)
    assert [settled for _, settled in rows.asked] == [False, True]


async def test_a_database_that_fails_ends_the_sweep_and_no_file_is_removed_or_stays_locked(
    blobs: LocalBlobs, folder: Path
) -> None:
    path = _orphan(folder)

    async def named(_paths: Sequence[str], settled: bool) -> set[str]:
        await trio.lowlevel.checkpoint()
        if settled:
            raise ConnectionError("away")
        return set()

    with pytest.raises(ConnectionError):
        await blobs.sweep(named)
    with (folder / path).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_sweep_that_is_cancelled_leaves_nothing_locked_or_open(blobs: LocalBlobs, folder: Path) -> None:
    path = _orphan(folder)
    asking = trio.Event()

    async def named(_paths: Sequence[str], settled: bool) -> set[str]:
        if settled:
            asking.set()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(blobs.sweep, named)
        await asking.wait()
        nursery.cancel_scope.cancel()
    with (folder / path).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_large_folder_is_asked_for_in_batches(
    blobs: LocalBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.sweep, "_BATCH", 7)
    paths = [_orphan(folder) for _ in range(30)]
    rows = Rows(*paths)
    assert await blobs.sweep(rows.named) == 0
    # Each path in both of its spellings.
    assert [len(asked) for asked, _ in rows.asked] == [14, 14, 14, 14, 4]


async def test_several_who_sweep_at_once_and_others_who_store_do_not_harm_each_other(folder: Path) -> None:
    rows = Rows()
    several = [LocalBlobs(folder, ThreadPool("files", 4)) for _ in range(3)]
    orphans = {_orphan(folder) for _ in range(40)}
    before = _files(folder) - orphans

    async def store_and_name(blobs: LocalBlobs) -> None:
        for number in range(15):
            async with blobs.incoming() as upload:
                await upload.write(b"%d" % number)
                stored = await upload.finish(".pdf")
                upload.keep()
                await trio.lowlevel.checkpoint()
                rows.paths.add(stored.path)

    removed: list[int] = []

    async def sweep(blobs: LocalBlobs) -> None:
        for _ in range(5):
            removed.append(await blobs.sweep(rows.named))

    async with trio.open_nursery() as nursery:
        for blobs in several:
            nursery.start_soon(store_and_name, blobs)
            nursery.start_soon(sweep, blobs)
    for blobs in several:
        blobs.close()
    assert sum(removed) == len(orphans)
    assert _files(folder) == before | rows.paths
    assert len(rows.paths) == 45
