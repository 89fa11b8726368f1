"""Reports stored and opened: a row never without its bytes, a reader never with half of them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs

from app.errors import (
    BadUserId,
    DatabaseUnavailable,
    DigestMismatch,
    InsufficientStorage,
    Overloaded,
    PreconditionFailed,
    QueryFailed,
    ReportNotFound,
    ReportsUnwritable,
    ReportUnreadable,
    VersionNotFound,
)
from app.flow.threads import ThreadPool
from app.http.conditions import Validators
from app.reports import service
from app.reports.catalogue import Catalogue, Changed, TooEarly, open_catalogue
from app.reports.entries import Entry
from app.reports.service import Report, Reports
from app.storage.blobs import Blob, LocalBlobs
from app.storage.database import Database
from tests.chunks import chunked, failing
from tests.storage.conftest import content

_FIRST = b"%PDF-first" + bytes(300_000)
_SECOND = b"%PDF-other" + bytes(300_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "reports").mkdir()
    return folder


@pytest.fixture
def blobs(folder: Path) -> Iterator[LocalBlobs]:
    with closing(LocalBlobs(folder, ThreadPool("files", 4))) as blobs:
        yield blobs


@pytest.fixture
async def catalogue(database: Database) -> AsyncIterator[Catalogue]:
    """Of which only the newest report is kept."""
    async with open_catalogue(database, 1) as opened:
        yield opened


@pytest.fixture
def reports(catalogue: Catalogue, blobs: LocalBlobs) -> Reports:
    return Reports(catalogue, blobs)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def _store(reports: Reports, data: bytes, media_type: str | None = None, user: str = "ada") -> Entry:
    return (await reports.store(user, chunked(data), media_type)).entry


async def _read(report: Report) -> bytes:
    return await content(report.blob)


async def _validators(reports: Reports, user: str = "ada") -> Validators:
    with closing((report := await reports.open(user)).blob):
        return report.validators


async def _adopt(database: Database, path: str, user: str = "ada") -> None:
    await database.execute("INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)", (user, path))


# -- store and open ----------------------------------------------------------------------------------------------------


async def test_what_was_stored_is_opened(reports: Reports) -> None:
    entry = await _store(reports, _FIRST)
    assert (entry.version, entry.size, entry.media_type) == (1, len(_FIRST), "application/pdf")
    report = await reports.open("ada")
    assert (report.user_id, report.media_type) == ("ada", "application/pdf")
    assert await _read(report) == _FIRST


@pytest.mark.parametrize(
    ("given", "name", "data", "expected"),
    [
        (None, "a.csv", b"%PDF-", "text/csv"),
        (None, "a", b"%PDF-", "application/pdf"),
        (None, "a", b"PK", "application/octet-stream"),
        ("text/x-log", "a.csv", b"%PDF-", "text/x-log"),
    ],
)
async def test_a_media_type_is_given_or_told_by_name_or_bytes(
    reports: Reports, given: str | None, name: str, data: bytes, expected: str
) -> None:
    await reports.store("ada", chunked(data), given, name=name)
    report = await reports.open("ada")
    report.blob.close()
    assert report.media_type == expected


async def test_replacing_removes_the_old_file_and_who_reads_it_gets_it_whole(reports: Reports, folder: Path) -> None:
    await _store(reports, _FIRST)
    reading = await reports.open("ada")
    entry = await _store(reports, _SECOND)
    assert entry.version == 2
    assert _files(folder) == {entry.path}
    assert await _read(reading) == _FIRST
    assert await _read(await reports.open("ada")) == _SECOND


async def test_users_do_not_touch_each_others_reports(reports: Reports) -> None:
    for user in ("ada", "Ada", "ada."):
        await _store(reports, user.encode(), user=user)
    assert [await _read(await reports.open(user)) for user in ("ada", "Ada", "ada.")] == [b"ada", b"Ada", b"ada."]


async def test_an_adopted_file_is_served_and_stays_when_it_is_replaced(
    reports: Reports, database: Database, folder: Path
) -> None:
    (folder / "old.pdf").write_bytes(_FIRST)
    await _adopt(database, "old.pdf")
    assert await _read(await reports.open("ada")) == _FIRST
    entry = await _store(reports, _SECOND)
    # It is not ours: the original, or another row, may still want it.
    assert _files(folder) == {"old.pdf", entry.path}


async def test_many_who_store_and_read_the_same_report_see_whole_versions_only(
    reports: Reports, catalogue: Catalogue, folder: Path
) -> None:
    versions = [b"%d" % number * 50_000 for number in range(4)]
    await _store(reports, versions[0])
    seen: set[bytes] = set()

    async def read() -> None:
        while True:
            seen.add(await _read(await reports.open("ada")))

    async with trio.open_nursery() as readers:
        for _ in range(4):
            readers.start_soon(read)
        async with trio.open_nursery() as writers:
            for version in versions[1:]:
                writers.start_soon(_store, reports, version)
        readers.cancel_scope.cancel()
    assert seen <= set(versions)
    entry = await catalogue.find("ada")
    assert entry is not None
    assert entry.version == len(versions)
    assert _files(folder) == {entry.path}


# -- validators --------------------------------------------------------------------------------------------------------


async def test_the_entity_tag_changes_with_the_bytes_and_with_the_media_type_and_only_then(reports: Reports) -> None:
    tags: list[str] = []
    for data, kind in [(_FIRST, None), (_FIRST, None), (_SECOND, None), (_SECOND, "text/csv"), (_FIRST, None)]:
        await _store(reports, data, kind)
        tags.append((await _validators(reports)).tag)
    assert tags[0] == tags[1] == tags[4]
    assert len(set(tags)) == 3
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)


async def test_versions_that_are_stored_in_one_second_are_modified_in_later_and_later_ones(reports: Reports) -> None:
    modified: list[int] = []
    for number in range(4):
        await _store(reports, b"%d" % number)
        modified.append((await _validators(reports)).modified)
    assert all(later > earlier for earlier, later in pairwise(modified))


async def test_a_date_is_strong_only_once_its_second_has_begun(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _store(reports, _FIRST)
    modified = (await _validators(reports)).modified
    strong: list[bool] = []
    for now in (modified - 0.5, modified + 0.5):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        strong.append((await _validators(reports)).modified_is_strong)
    assert strong == [False, True]


async def test_the_date_of_a_file_that_others_write_is_strong_only_when_its_second_has_passed(
    reports: Reports, database: Database, folder: Path
) -> None:
    (folder / "a.pdf").write_bytes(_FIRST)
    await _adopt(database, "a.pdf")
    strong: list[bool] = []
    for modified in (time.time() + 3600, time.time() - 10):
        os.utime(folder / "a.pdf", (modified, modified))
        strong.append((await _validators(reports)).modified_is_strong)
    assert strong == [False, True]


@pytest.mark.parametrize("kept", [True, False], ids=["stored", "adopted"])
async def test_the_entity_tag_changes_when_the_file_is_overwritten_in_place_by_as_many_bytes(
    reports: Reports, database: Database, folder: Path, kept: bool
) -> None:
    if kept:
        path = folder / (await _store(reports, _FIRST)).path
    else:
        (path := folder / "a.pdf").write_bytes(_FIRST)
        await _adopt(database, "a.pdf")
    before = await _validators(reports)
    with path.open("r+b") as file:
        file.write(_SECOND)
    os.utime(path, (time.time() - 5, time.time() - 5))
    if kept:  # nobody but us writes to what we have stored: a look within the second is enough
        await trio.sleep(1)
    assert (await _validators(reports)).tag != before.tag


async def test_the_entity_tag_tells_apart_what_was_written_within_one_tick_of_the_clock(
    reports: Reports, database: Database, folder: Path
) -> None:
    (path := folder / "a.txt").write_bytes(b"")
    await _adopt(database, "a.txt")
    seen: dict[str, set[bytes]] = {}
    with path.open("r+b", buffering=0) as file:
        for number in range(100):
            os.pwrite(file.fileno(), b"%04d" % number, 0)
            report = await reports.open("ada")
            seen.setdefault(report.validators.tag, set()).add(await _read(report))
    assert [contents for contents in seen.values() if len(contents) > 1] == []


async def test_the_tag_of_a_file_that_nobody_touches_stays(reports: Reports, database: Database, folder: Path) -> None:
    (folder / "a.pdf").write_bytes(_FIRST)
    os.utime(folder / "a.pdf", (1_700_000_000, 1_700_000_000))
    await _adopt(database, "a.pdf")
    os.utime(folder / "a.pdf", (1_700_000_001, 1_700_000_001))
    await trio.sleep(0.1)  # the clock of files ticks every 10 ms at most
    assert len({(await _validators(reports)).tag for _ in range(5)}) == 1


# -- what cannot be opened ---------------------------------------------------------------------------------------------


async def test_an_unknown_user_has_no_report(reports: Reports) -> None:
    with pytest.raises(ReportNotFound):
        await reports.open("nobody")


@pytest.mark.parametrize("user", ["", ".", "..", "a/b", "a b", "x" * 129, "é", "a\0", "a\n"])
async def test_a_bad_user_id_is_refused_before_anything_is_asked_or_stored(
    reports: Reports, folder: Path, user: str
) -> None:
    with pytest.raises(BadUserId):
        await reports.open(user)
    with pytest.raises(BadUserId):
        await _store(reports, _FIRST, user=user)
    assert _files(folder) == set()


@pytest.mark.parametrize("path", ["missing.pdf", "../secret.pdf", "", "/etc/passwd"])
async def test_a_row_whose_file_cannot_be_read_is_unreadable_and_only_the_log_learns_the_path(
    reports: Reports, database: Database, folder: Path, path: str
) -> None:
    (folder.parent / "secret.pdf").write_bytes(b"secret")
    await _adopt(database, path)
    with pytest.raises(ReportUnreadable) as raised:
        await reports.open("ada")
    assert repr(path) in (raised.value.internal or "")
    assert path == "" or path not in raised.value.detail


@pytest.mark.parametrize("times", [1, 3])
async def test_a_report_that_is_replaced_between_its_row_and_its_file_is_opened_anyway(
    reports: Reports, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    await _store(reports, b"version 0")
    left = times
    open_blob = blobs.open

    async def replaced_meanwhile(path: str) -> Blob:
        nonlocal left
        if left:
            left -= 1
            await _store(reports, b"version %d" % (times - left))
        return await open_blob(path)

    monkeypatch.setattr(blobs, "open", replaced_meanwhile)
    assert await _read(await reports.open("ada")) == b"version %d" % times


# -- what cannot be stored ---------------------------------------------------------------------------------------------


class _Refusing:
    """A catalogue whose replacements fail, or need another date, as told; then it does as the real one."""

    def __init__(self, catalogue: Catalogue, *outcomes: Exception | TooEarly) -> None:
        self._catalogue = catalogue
        self.outcomes = list(outcomes)
        self.find = catalogue.find

    async def replace(self, *arguments: Any, **options: Any) -> object:
        if not self.outcomes:
            return await self._catalogue.replace(*arguments, **options)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, TooEarly):
            return outcome
        raise outcome


def _over(catalogue: _Refusing, blobs: LocalBlobs) -> Reports:
    return Reports(cast("Any", catalogue), blobs)


@pytest.mark.parametrize("error", [QueryFailed("refused"), DatabaseUnavailable("away"), InsufficientStorage("full")])
async def test_a_row_that_cannot_be_written_leaves_the_old_report(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs, folder: Path, error: Exception
) -> None:
    old = await _store(reports, _FIRST)
    with pytest.raises(type(error)):
        await _store(_over(_Refusing(catalogue, *[error] * 50), blobs), _SECOND)
    assert await _read(await reports.open("ada")) == _FIRST
    assert old.path in _files(folder)
    assert _files(folder) == {old.path}


async def test_a_commit_whose_answer_was_lost_never_leaves_a_row_without_its_bytes(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs
) -> None:
    class Lossy(_Refusing):
        """It commits, and says that it could not tell."""

        async def replace(self, *arguments: Any, **options: Any) -> object:
            await self._catalogue.replace(*arguments, **options)
            raise DatabaseUnavailable("the answer was lost")

    await _store(reports, _FIRST)
    with pytest.raises(DatabaseUnavailable):
        await _store(_over(Lossy(catalogue), blobs), _SECOND)
    assert await _read(await reports.open("ada")) in {_FIRST, _SECOND}


async def test_a_commit_whose_answer_was_lost_is_found_when_it_is_tried_again(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs, folder: Path
) -> None:
    class LossyOnce(_Refusing):
        async def replace(self, *arguments: Any, **options: Any) -> object:
            replaced = await self._catalogue.replace(*arguments, **options)
            if self.outcomes:
                raise self.outcomes.pop()  # type: ignore[misc]
            return replaced

    old = await _store(reports, _FIRST)
    lossy = _over(LossyOnce(catalogue, DatabaseUnavailable("the answer was lost")), blobs)
    # Its own report, once it is committed, must not make its own condition fail.
    condition = {"if-match": (await _validators(reports)).tag}
    replaced = await lossy.store("ada", chunked(_SECOND), conditions=condition)
    assert replaced.entry.version == old.version + 1
    assert await _read(await reports.open("ada")) == _SECOND
    assert replaced.entry.path in _files(folder)


async def test_a_refusal_after_a_commit_that_may_have_been_done_removes_nothing(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs, folder: Path
) -> None:
    class LossyThenRefusing(_Refusing):
        async def replace(self, *arguments: Any, **options: Any) -> object:
            outcome = self.outcomes.pop(0)
            if isinstance(outcome, DatabaseUnavailable):
                await self._catalogue.replace(*arguments, **options)
            raise outcome  # type: ignore[misc]

    outcomes = [DatabaseUnavailable("the answer was lost"), QueryFailed("refused")]
    with pytest.raises(QueryFailed):
        await _store(_over(LossyThenRefusing(catalogue, *outcomes), blobs), _SECOND)
    assert await _read(await reports.open("ada")) == _SECOND


async def test_a_database_that_is_away_for_a_moment_is_asked_again(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs
) -> None:
    await _store(_over(_Refusing(catalogue, DatabaseUnavailable("away")), blobs), _SECOND)
    assert await _read(await reports.open("ada")) == _SECOND


async def test_a_store_among_many_other_writers_gets_its_turn(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs
) -> None:
    outcomes = [TooEarly(time.time_ns() + number) for number in range(50)]
    await _store(_over(_Refusing(catalogue, *outcomes), blobs), _FIRST)
    assert await _read(await reports.open("ada")) == _FIRST


@pytest.mark.parametrize("outcome", [TooEarly(1), Changed()])
async def test_a_change_that_others_get_in_before_for_too_long_is_refused(
    reports: Reports,
    catalogue: Catalogue,
    blobs: LocalBlobs,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: TooEarly | Changed,
) -> None:
    class Outrun(_Refusing):
        async def replace(self, *_arguments: Any, **_options: Any) -> object:
            await trio.lowlevel.checkpoint()
            return outcome

        async def remove(self, *_arguments: Any, **_options: Any) -> object:
            await trio.lowlevel.checkpoint()
            return Changed()

    monkeypatch.setattr(service, "_RACE_SECONDS", 0.05)
    old = await _store(reports, _FIRST)
    with trio.fail_after(20):
        with pytest.raises(Overloaded) as refused:
            await _store(_over(Outrun(catalogue), blobs), _SECOND)
        assert refused.value.retry_after == 1
        with pytest.raises(Overloaded):
            await _over(Outrun(catalogue), blobs).delete("ada")
    assert _files(folder) == {old.path}
    assert await _read(await reports.open("ada")) == _FIRST


async def test_a_folder_that_goes_away_before_the_row_is_written_is_told_as_such(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs, folder: Path
) -> None:
    class Removing(_Refusing):
        async def replace(self, *_arguments: Any, **_options: Any) -> object:
            await trio.Path(folder).rename(folder.with_name("away"))
            return TooEarly(1)

    with pytest.raises(ReportsUnwritable):
        await _store(_over(Removing(catalogue), blobs), _FIRST)
    with pytest.raises(ReportsUnwritable) as told:
        await _store(reports, _FIRST)
    assert str(folder) in (told.value.internal or "")
    assert str(folder) not in told.value.detail


async def test_an_upload_that_can_neither_be_written_nor_removed_is_told_as_unwritable(
    reports: Reports, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("write", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    with capture_logs() as logs, pytest.raises(ReportsUnwritable):
        await _store(reports, _FIRST)
    monkeypatch.undo()
    assert [line["log_level"] for line in logs if line["event"] == "upload not removed"] == ["warning"]
    await reports.sweep()  # the lock was given up
    assert _files(folder) == set()


async def test_a_source_that_fails_in_the_middle_leaves_the_old_report(reports: Reports, folder: Path) -> None:
    old = await _store(reports, _FIRST)
    with pytest.raises(OSError, match="Input/output error"):
        await reports.store("ada", failing(_SECOND, OSError(errno.EIO, "Input/output error")))
    assert _files(folder) == {old.path}
    assert await _read(await reports.open("ada")) == _FIRST


async def test_a_store_that_is_cancelled_leaves_a_report_that_can_be_read(reports: Reports) -> None:
    await _store(reports, _FIRST)
    for seconds in (0.0, 0.001, 0.003, 0.01):
        with trio.move_on_after(seconds):
            await _store(reports, _SECOND)
        assert await _read(await reports.open("ada")) in {_FIRST, _SECOND}


# -- conditions, digests, deleting -------------------------------------------------------------------------------------


async def test_a_condition_that_fails_is_told_before_anything_is_read(reports: Reports, folder: Path) -> None:
    class Unread:
        def __aiter__(self) -> AsyncIterator[bytes]:
            raise AssertionError("it was read")

    await _store(reports, _FIRST)
    with pytest.raises(PreconditionFailed):
        await reports.store("ada", Unread(), conditions={"if-none-match": "*"})
    assert len(_files(folder)) == 1


async def test_a_condition_is_asked_again_of_what_was_stored_while_the_body_came(
    reports: Reports, folder: Path
) -> None:
    old = await _store(reports, _FIRST)

    async def slow() -> AsyncIterator[bytes]:
        yield b"the first of two who"
        await _store(reports, _SECOND)
        yield b"both replace the same"

    with pytest.raises(PreconditionFailed):
        await reports.store("ada", slow(), conditions={"if-match": (await _validators(reports)).tag})
    assert await _read(await reports.open("ada")) == _SECOND
    assert len(_files(folder) - {old.path}) == 1


async def test_one_digest_of_several_that_differs_is_enough_to_refuse(reports: Reports, folder: Path) -> None:
    digest = sha256(_FIRST).digest()
    await reports.store("ada", chunked(_FIRST), digests=[digest, digest])
    with pytest.raises(DigestMismatch):
        await reports.store("ada", chunked(_SECOND), digests=[sha256(_SECOND).digest(), digest])
    assert await _read(await reports.open("ada")) == _FIRST
    assert len(_files(folder)) == 1


async def test_deleting_asks_again_where_another_has_replaced_it_meanwhile(
    reports: Reports, catalogue: Catalogue, blobs: LocalBlobs, folder: Path
) -> None:
    await _store(reports, _FIRST)
    tag = (await _validators(reports)).tag

    class Raced(_Refusing):
        async def remove(self, *arguments: Any, **options: Any) -> object:
            if self.outcomes:
                self.outcomes.clear()
                await _store(reports, _SECOND)
            return await self._catalogue.remove(*arguments, **options)

    with pytest.raises(PreconditionFailed):
        await _over(Raced(catalogue, ValueError()), blobs).delete("ada", {"if-match": tag})
    assert await _read(await reports.open("ada")) == _SECOND
    await _over(Raced(catalogue, ValueError()), blobs).delete("ada")
    assert _files(folder) == set()
    with pytest.raises(ReportNotFound):
        await reports.delete("ada")


async def test_a_version_that_is_removed_between_its_row_and_its_file_is_told_as_such(
    database: Database, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_catalogue(database, 2) as catalogue:
        reports = Reports(catalogue, blobs)
        await _store(reports, _FIRST)
        await _store(reports, _SECOND)
        open_blob = blobs.open

        async def pruned_meanwhile(path: str) -> Blob:
            monkeypatch.undo()
            await _store(reports, b"third")
            return await open_blob(path)

        monkeypatch.setattr(blobs, "open", pruned_meanwhile)
        with pytest.raises(VersionNotFound):
            await reports.open("ada", 1)
        assert await _read(await reports.open("ada", 2)) == _SECOND


@pytest.mark.parametrize("deleted", [False, True], ids=["replaced", "deleted"])
async def test_old_files_that_cannot_be_removed_are_logged_and_left_to_the_sweep(
    database: Database, blobs: LocalBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    async with open_catalogue(database, 3) as catalogue:
        for number in range(3):
            await _store(Reports(catalogue, blobs), b"%d" % number)
    old = _files(folder)
    refused: list[str] = []

    def unlink(path: str, *_arguments: object, **_options: object) -> None:
        refused.append(path)
        raise PermissionError(errno.EACCES, "Permission denied", path)

    async with open_catalogue(database, 1) as catalogue:
        reports = Reports(catalogue, blobs)
        monkeypatch.setattr(os, "unlink", unlink)
        with capture_logs() as logs:
            if deleted:
                await reports.delete("ada")
            else:
                assert (await _store(reports, b"new")).version == 4
        monkeypatch.undo()
        lost = [line for line in logs if line["event"] == "old file not removed"]
        assert {line["path"] for line in lost} == old
        assert all(line["log_level"] == "warning" for line in lost)
        assert len(refused) == 3
        assert old <= _files(folder)
        await reports.sweep()
        assert len(_files(folder)) == (not deleted)


# -- sweeping ----------------------------------------------------------------------------------------------------------


async def test_a_sweep_removes_what_no_row_names(reports: Reports, database: Database, folder: Path) -> None:
    entries = [await _store(reports, b"x", user=user) for user in ("ada", "bob")]
    await database.execute("DELETE FROM report_versions WHERE user_id = 'ada'")
    await database.execute("DELETE FROM user_reports WHERE user_id = 'bob'")
    lost = await _store(reports, b"x", user="eve")
    for table in ("user_reports", "report_versions"):
        await database.execute(f"DELETE FROM {table} WHERE user_id = 'eve'")
    assert lost.path in _files(folder)
    await reports.sweep()
    assert _files(folder) == {entry.path for entry in entries}


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), QueryFailed("refused"), OSError(errno.EIO, "broken")])
async def test_a_sweep_that_cannot_go_on_gives_up_and_the_server_goes_on(
    reports: Reports, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(_named: object) -> int:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(blobs, "sweep", fail)
    await reports.sweep()
