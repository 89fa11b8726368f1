"""Files that stay open: what is changed is noticed, what is closed is nobody's, one looks for all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from app.flow.threads import ThreadPool
from app.storage.blobs import BlobUnreadable, LocalBlobs
from app.storage.open_files import OpenFiles
from tests.storage.conftest import BYTES, SECRET, Clock, content, open_files

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


class _Looks:
    """Counts the looks at the file system, and holds up the chosen ones in their thread until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._token = trio.lowlevel.current_trio_token()
        self._held: dict[int, tuple[trio.Event, threading.Event]] = {}
        looks, resolve = self, LocalBlobs._resolve

        def resolve_held(self: LocalBlobs, root: str, path: str) -> list[str]:
            looks.count += 1
            parts = resolve(self, root, path)
            if (held := looks._held.get(looks.count)) is not None:
                looks._token.run_sync_soon(held[0].set)
                assert held[1].wait(30)
            return parts

        monkeypatch.setattr(LocalBlobs, "_resolve", resolve_held)

    def hold(self, number: int) -> tuple[trio.Event, threading.Event]:
        """For the look with that number, from 1: what is set when it is there, and what lets it go."""
        return self._held.setdefault(number, (trio.Event(), threading.Event()))


@pytest.fixture
async def looks(monkeypatch: pytest.MonkeyPatch) -> _Looks:
    return _Looks(monkeypatch)


class _Opening:
    """An opening in a task of its own: its outcome, once there is one. A blob is closed at once."""

    def __init__(self, nursery: trio.Nursery, blobs: LocalBlobs, path: str = "a.pdf") -> None:
        self.outcome: tuple[int, ...] | BaseException | None = None
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run, blobs, path)

    async def _run(self, blobs: LocalBlobs, path: str) -> None:
        with self.scope:
            try:
                with closing(await blobs.open(path)) as blob:
                    assert blob.descriptor >= 0
                    self.outcome = blob.identity
            except BlobUnreadable as error:
                self.outcome = error


async def _identity(blobs: LocalBlobs, path: str = "a.pdf") -> tuple[int, ...]:
    with closing(await blobs.open(path)) as blob:
        return blob.identity


# -- what is kept, and for how long ------------------------------------------------------------------------------------


async def test_an_open_file_is_shared_and_asks_nobody(blobs: LocalBlobs, looks: _Looks, clock: Clock) -> None:
    assert blobs.open_nowait("a.pdf") is None
    with closing(await blobs.open("a.pdf")) as first:
        clock.now += 0.499
        second = blobs.open_nowait("a.pdf")
        assert second is not None
        with closing(second), closing(await blobs.open("a.pdf")) as third:
            assert first.descriptor == second.descriptor == third.descriptor
            assert (second.size, second.head) == (len(BYTES), BYTES[:16])
            assert (second.identity, second.modified_ns) == (first.identity, os.fstat(first.descriptor).st_mtime_ns)
            assert await second.read(5, 1000) == BYTES[5:1000]
            statistics = blobs.statistics()
    assert looks.count == 1
    assert (statistics.open, statistics.kept, statistics.leases) == (1, 1, 3)
    assert (statistics.hits, statistics.misses, statistics.size) == (2, 1, 256)
    assert blobs.statistics().leases == 0


async def test_a_file_that_did_not_change_is_looked_at_again_and_stays_open(
    blobs: LocalBlobs, looks: _Looks, clock: Clock, folder: Path
) -> None:
    with closing(await blobs.open("a.pdf")) as before:
        for number in (2, 3):
            clock.now += 0.501
            assert blobs.open_nowait("a.pdf") is None
            with closing(await blobs.open("a.pdf")) as after:
                assert after.descriptor == before.descriptor
            clock.now += 0.499
            await _identity(blobs)
            assert looks.count == number
            assert len(open_files(folder)) == 1


def _renamed_over(file: Path) -> None:
    (other := file.with_name("other")).write_bytes(BYTES[::-1])
    other.replace(file)


def _written_in_place(file: Path) -> None:
    file.write_bytes(BYTES[::-1])


def _linked_to_the_outside(file: Path) -> None:
    file.unlink()
    file.symlink_to("../secret.pdf")


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (_renamed_over, BYTES[::-1]),
        (_written_in_place, BYTES[::-1]),
        (Path.unlink, "No such file"),
        (_linked_to_the_outside, "leaves the reports folder"),
        (lambda file: file.unlink() or os.mkfifo(file), "no regular file"),
    ],
)
@pytest.mark.parametrize("reading", [False, True])
async def test_what_others_change_where_looking_might_wait_is_noticed_within_a_second(
    blobs: LocalBlobs, folder: Path, clock: Clock, change: Callable[[Path], None], outcome: bytes | str, reading: bool
) -> None:
    before = await blobs.open("a.pdf")
    before._file.nowait = False
    os.utime(folder / "a.pdf", ns=(1, 1))  # that what is written in place is written in another tick of the clock
    clock.now += 0.5
    before.close()
    before = await blobs.open("a.pdf")
    before._file.nowait = False
    if not reading:
        before.close()
    change(folder / "a.pdf")
    (await blobs.open("a.pdf")).close()  # not yet
    for seconds in (0.5, 0.5):
        clock.now += seconds
        assert blobs.open_nowait("a.pdf") is None
        if isinstance(outcome, bytes):
            assert await content(await blobs.open("a.pdf")) == outcome
        else:
            with pytest.raises(BlobUnreadable, match=outcome) as raised:
                await blobs.open("a.pdf")
            assert raised.value.gone == (outcome == "No such file")
            assert blobs.statistics().kept == 0
    if reading and change is not _written_in_place:
        assert await content(before) == BYTES
    before.close()


@pytest.mark.parametrize("change", [_renamed_over, _written_in_place, Path.unlink, _linked_to_the_outside])
async def test_what_others_do_to_a_file_is_noticed_at_once(
    blobs: LocalBlobs, folder: Path, change: Callable[[Path], None]
) -> None:
    with closing(await blobs.open("a.pdf")) as before:
        if not before._file.nowait:
            pytest.skip("this file system may let a look wait")
        change(folder / "a.pdf")
        assert blobs.open_nowait("a.pdf") is None
        if (folder / "a.pdf").exists() and not (folder / "a.pdf").is_symlink():
            with closing(await blobs.open("a.pdf")) as after:
                assert after.identity != before.identity
                assert await after.read(0, after.size) == BYTES[::-1]
        else:
            with pytest.raises(BlobUnreadable):
                await blobs.open("a.pdf")


async def test_a_file_that_is_changed_after_the_look_is_not_shared_by_who_waited_for_it(
    blobs: LocalBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    find = LocalBlobs._find
    count = 0

    def find_then_wait(self: LocalBlobs, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        found = find(self, *arguments)
        token.run_sync_soon(looked.set)
        assert go_on.wait(30)
        return found

    monkeypatch.setattr(LocalBlobs, "_find", find_then_wait)
    async with trio.open_nursery() as nursery:
        first = _Opening(nursery, blobs)
        await looked.wait()
        _written_in_place(folder / "a.pdf")
        others = [_Opening(nursery, blobs) for _ in range(3)]
        await wait_all_tasks_blocked()
        go_on.set()
    if next(iter(blobs._files._files.values())).nowait:
        assert {other.outcome for other in others} == {await _identity(blobs)} != {first.outcome}
        assert count == 2


def _folder_swapped(folder: Path) -> None:
    """The file has not changed, but is at its path no longer."""
    (folder / "deep" / "er").rename(folder / "moved")
    (folder / "deep" / "er").mkdir()
    (folder / "deep" / "er" / "b.pdf").write_bytes(BYTES[::-1])


async def test_a_folder_that_is_swapped_for_a_link_to_the_outside_is_noticed(
    blobs: LocalBlobs, folder: Path, clock: Clock
) -> None:
    await _identity(blobs, "deep/er/b.pdf")
    (outside := folder.parent / "outside").mkdir()
    (outside / "b.pdf").write_bytes(SECRET)
    (folder / "deep" / "er").rename(folder / "moved")
    (folder / "deep" / "er").symlink_to(outside)
    clock.now += 0.5
    with pytest.raises(BlobUnreadable, match="leaves the reports folder"):
        await blobs.open("deep/er/b.pdf")


async def test_while_one_looks_again_the_others_go_on_but_not_past_a_second(
    blobs: LocalBlobs, folder: Path, clock: Clock, looks: _Looks
) -> None:
    path = "deep/er/b.pdf"
    old = await _identity(blobs, path)
    _folder_swapped(folder)
    clock.now += 0.6
    there, go_on = looks.hold(2)
    async with trio.open_nursery() as nursery:
        first = _Opening(nursery, blobs, path)
        await there.wait()
        clock.now += 0.399
        assert await _identity(blobs, path) == old  # in spite of the look that is under way
        clock.now += 0.001
        assert blobs.open_nowait(path) is None
        others = [_Opening(nursery, blobs, path) for _ in range(3)]
        await wait_all_tasks_blocked()
        assert all(other.outcome is None for other in others)
        go_on.set()
    assert looks.count == 2
    assert first.outcome not in {old, None}
    assert all(other.outcome == first.outcome for other in others)


async def test_the_file_that_was_not_asked_for_longest_leaves_first(
    blobs: LocalBlobs, folder: Path, looks: _Looks, clock: Clock
) -> None:
    blobs._files = OpenFiles(2)
    for name in "abc":
        (folder / name).write_bytes(name.encode())
    for name in "abac":  # b is the one
        await _identity(blobs, name)
    assert open_files(folder) == [str(folder / "a"), str(folder / "c")]
    assert blobs.open_nowait("b") is None
    clock.now += 0.5
    await _identity(blobs, "a")  # looked at again, it is the last one to leave
    await _identity(blobs, "b")
    assert open_files(folder) == [str(folder / "a"), str(folder / "b")]
    assert blobs.statistics().kept == blobs.statistics().open == 2
    assert looks.count == 5


@pytest.mark.parametrize("how", ["the bound", "close", "remove"])
async def test_a_lease_outlives_the_place_in_the_cache(blobs: LocalBlobs, folder: Path, how: str) -> None:
    blobs._files = OpenFiles(1)
    leases = [await blobs.open("a.pdf") for _ in range(2)]
    match how:
        case "the bound":
            await _identity(blobs, "deep/er/b.pdf")
        case "close":
            blobs.close()
            blobs.close()
        case _:
            await blobs.remove("a.pdf")
    assert blobs.open_nowait("a.pdf") is None
    leases[0].close()
    assert len([file for file in open_files(folder) if "a.pdf" in file]) == 1
    assert blobs.statistics().leases == 1
    assert await content(leases[1]) == BYTES
    assert not [file for file in open_files(folder) if "a.pdf" in file]
    assert blobs.statistics().open == blobs.statistics().kept == (how == "the bound")


async def test_what_was_closed_still_opens_but_keeps_nothing(blobs: LocalBlobs, folder: Path) -> None:
    blobs.close()
    assert await content(await blobs.open("a.pdf")) == BYTES
    assert open_files(folder) == []


@pytest.mark.parametrize("by", ["opening another", "probe"])
async def test_a_file_that_nobody_asks_for_is_closed_so_that_it_can_leave_the_disk(
    blobs: LocalBlobs, folder: Path, clock: Clock, by: str
) -> None:
    await _identity(blobs)
    clock.now += 9
    await _identity(blobs, "deep/er/b.pdf")
    assert len(open_files(folder)) == 2
    clock.now += 1
    if by == "probe":
        await blobs.probe()
    else:
        await _identity(blobs, "deep/../deep/er/b.pdf")
    assert not [file for file in open_files(folder) if "a.pdf" in file]
    assert [file for file in open_files(folder) if "b.pdf" in file]


# -- one look for all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a.pdf", "missing.pdf", "../secret.pdf"])
async def test_who_wants_the_same_path_meanwhile_shares_the_look(blobs: LocalBlobs, looks: _Looks, path: str) -> None:
    there, go_on = looks.hold(1)
    async with trio.open_nursery() as nursery:
        openings = [_Opening(nursery, blobs, path)]
        if path == "../secret.pdf":  # refused before it can be held up
            openings += [_Opening(nursery, blobs, path) for _ in range(20)]
        else:
            if path == "a.pdf":
                await there.wait()
            openings += [_Opening(nursery, blobs, path) for _ in range(20)]
            await wait_all_tasks_blocked()
            go_on.set()
    assert looks.count == 1
    if path == "a.pdf":
        assert {opening.outcome for opening in openings} == {await _identity(blobs)}
        return
    refusals = [opening.outcome for opening in openings if isinstance(opening.outcome, BlobUnreadable)]
    assert len(refusals) == len({id(refusal) for refusal in refusals}) == 21  # each has one of its own
    assert {(refusal.gone, str(refusal)) for refusal in refusals} == {(path == "missing.pdf", str(refusals[0]))}


async def test_a_look_whose_caller_is_cancelled_before_it_begins_is_taken_over(
    blobs: LocalBlobs, looks: _Looks
) -> None:
    blobs._threads = ThreadPool("files", 1)
    there, go_on = looks.hold(1)
    async with trio.open_nursery() as nursery:
        busy = _Opening(nursery, blobs, "deep/er/b.pdf")  # has the only thread
        await there.wait()
        first = _Opening(nursery, blobs)
        await wait_all_tasks_blocked()
        others = [_Opening(nursery, blobs) for _ in range(3)]
        await wait_all_tasks_blocked()
        first.scope.cancel()
        others[0].scope.cancel()  # a waiter can leave too
        await wait_all_tasks_blocked()
        assert first.outcome is others[0].outcome is None
        assert first.scope.cancelled_caught
        assert others[0].scope.cancelled_caught
        go_on.set()
    assert looks.count == 2
    assert busy.outcome is not None
    assert others[1].outcome == others[2].outcome == await _identity(blobs)
    assert blobs._looks == {}


async def test_a_look_whose_caller_is_cancelled_in_the_thread_is_good_for_the_others(
    blobs: LocalBlobs, looks: _Looks
) -> None:
    there, go_on = looks.hold(1)
    async with trio.open_nursery() as nursery:
        first = _Opening(nursery, blobs)
        await there.wait()
        other = _Opening(nursery, blobs)
        await wait_all_tasks_blocked()
        first.scope.cancel()
        go_on.set()
    assert looks.count == 1
    assert first.outcome == other.outcome == await _identity(blobs)


async def test_a_look_that_fails_in_its_own_way_fails_nobody_else(
    blobs: LocalBlobs, looks: _Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, go_on = looks.hold(1)
    resolve = LocalBlobs._resolve

    def fail_once(self: LocalBlobs, root: str, path: str) -> list[str]:
        parts = resolve(self, root, path)
        if looks.count == 1:
            raise MemoryError
        return parts

    monkeypatch.setattr(LocalBlobs, "_resolve", fail_once)
    async with trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(MemoryError):
                await blobs.open("a.pdf")

        nursery.start_soon(first)
        await there.wait()
        other = _Opening(nursery, blobs)
        await wait_all_tasks_blocked()
        go_on.set()
    assert other.outcome == await _identity(blobs)
    assert looks.count == 2


async def test_a_look_that_takes_long_is_enough_for_who_came_in_time(
    blobs: LocalBlobs, clock: Clock, looks: _Looks
) -> None:
    with closing(await blobs.open("a.pdf")) as old:
        clock.now += 0.999
        there, go_on = looks.hold(2)
        async with trio.open_nursery() as nursery:
            openings = [_Opening(nursery, blobs)]
            await there.wait()
            clock.now += 0.999
            openings += [_Opening(nursery, blobs) for _ in range(3)]
            await wait_all_tasks_blocked()
            clock.now += 5
            go_on.set()
        assert {opening.outcome for opening in openings} == {old.identity}
    assert looks.count == 2


async def test_a_file_that_is_looked_at_again_is_not_closed_meanwhile(
    blobs: LocalBlobs, clock: Clock, looks: _Looks, folder: Path
) -> None:
    old = await _identity(blobs)
    clock.now += 0.5
    there, go_on = looks.hold(2)
    async with trio.open_nursery() as nursery:
        again = _Opening(nursery, blobs)
        await there.wait()
        blobs.close()
        go_on.set()
    assert again.outcome == old
    assert open_files(folder) == []


async def test_a_look_that_takes_long_is_not_waited_for_by_who_comes_a_second_later(
    blobs: LocalBlobs, folder: Path, clock: Clock, looks: _Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "deep/er/b.pdf"
    there, go_on = looks.hold(1)
    async with trio.open_nursery() as nursery:
        slow = _Opening(nursery, blobs, path)
        await there.wait()
        clock.now += 0.999
        joined = _Opening(nursery, blobs, path)
        await wait_all_tasks_blocked()
        clock.now += 0.001
        new = await _identity(blobs, path)
        assert looks.count == 2
        assert slow.outcome is joined.outcome is None
        _folder_swapped(folder)  # which only the look that began first is late enough to see
        go_on.set()
    newer = slow.outcome
    assert newer not in {new, None}
    assert joined.outcome == new  # the other one was closed already
    # What the look that began later has found is kept, until it is due.
    assert await _identity(blobs, path) == new
    clock.now += 0.5
    assert await _identity(blobs, path) == newer


async def test_a_file_that_is_removed_while_it_is_looked_for_is_not_kept(
    blobs: LocalBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    open_file = LocalBlobs._open
    count = 0

    def open_then_wait(self: LocalBlobs, path: str) -> int:
        nonlocal count
        count += 1
        descriptor = open_file(self, path)
        token.run_sync_soon(opened.set)
        assert go_on.wait(30)
        return descriptor

    monkeypatch.setattr(LocalBlobs, "_open", open_then_wait)
    async with trio.open_nursery() as nursery:
        before = _Opening(nursery, blobs)
        await opened.wait()
        await blobs.remove("a.pdf")
        after = _Opening(nursery, blobs)
        await wait_all_tasks_blocked()
        go_on.set()
    assert isinstance(before.outcome, tuple)  # it had it before
    assert isinstance(after.outcome, BlobUnreadable)
    assert after.outcome.gone
    assert count == 2
    assert open_files(folder) == []


async def test_an_opening_that_is_cancelled_while_it_looks_again_leaks_no_lease(
    blobs: LocalBlobs, clock: Clock, looks: _Looks
) -> None:
    blobs._threads = ThreadPool("files", 1)
    old = await _identity(blobs)
    clock.now += 0.6
    there, go_on = looks.hold(2)
    async with trio.open_nursery() as nursery:
        _Opening(nursery, blobs, "deep/er/b.pdf")  # has the only thread
        await there.wait()
        again = _Opening(nursery, blobs)
        await wait_all_tasks_blocked()
        assert await _identity(blobs) == old
        again.scope.cancel()
        await wait_all_tasks_blocked()
        assert again.scope.cancelled_caught
        assert blobs.open_nowait("a.pdf") is None  # nobody looks, so the next one has to
        assert blobs.statistics().leases == 0
        go_on.set()
    assert await _identity(blobs) == old
    assert looks.count == 3
