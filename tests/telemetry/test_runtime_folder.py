"""What workers of one master leave for each other: each count is told once, whoever ended how."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry.runtime_folder import RuntimeFolder, remove_of
from app.telemetry.snapshots import Snapshot, merge


def counted(number: float) -> Snapshot:
    return {"http_response_bytes_total": {("GET", "/"): float(number)}, "sluice_tasks": {(): float(number)}}


def told(snapshots: list[Snapshot]) -> float:
    (value,) = merge(snapshots).get("http_response_bytes_total", {(): 0.0}).values()
    assert isinstance(value, float)
    return value


@pytest.fixture
def folder(tmp_path: Path) -> RuntimeFolder:
    return RuntimeFolder(tmp_path)


def begin(folder: RuntimeFolder, name: str) -> None:
    folder.socket(name).touch()


def test_what_a_worker_has_told_stays_when_it_is_killed(folder: RuntimeFolder) -> None:
    begin(folder, "a")
    folder.write("a", counted(5))
    for _ in range(3):
        assert told(folder.others({"b": counted(1)}, ["a"])) == 6
        assert folder.names() == []


def test_what_a_worker_leaves_that_ends_stays(folder: RuntimeFolder) -> None:
    begin(folder, "a")
    folder.write("a", counted(5))
    folder.leave("a")
    assert folder.names() == []
    for _ in range(3):
        assert told(folder.others({"b": counted(1)}, [])) == 6


def test_one_that_does_not_answer_is_told_by_what_it_said_last(folder: RuntimeFolder) -> None:
    begin(folder, "a")
    folder.write("a", counted(5))
    snapshots = folder.others({"b": counted(1)}, [])
    assert told(snapshots) == 6
    assert merge(snapshots)["sluice_tasks"] == {(): 1.0}  # its gauges say nothing any more
    assert folder.names() == ["a"]
    assert told(folder.others({"a": counted(7), "b": counted(1)}, [])) == 8


def test_an_answer_of_one_that_was_buried_meanwhile_is_not_told_twice(folder: RuntimeFolder) -> None:
    begin(folder, "a")
    folder.write("a", counted(5))
    folder.others({}, ["a"])
    assert told(folder.others({"a": counted(5), "b": counted(1)}, [])) == 6


def test_one_that_never_told_anything_leaves_nothing(folder: RuntimeFolder) -> None:
    begin(folder, "a")
    assert told(folder.others({"b": counted(1)}, ["a"])) == 1
    assert folder.names() == []


@pytest.mark.parametrize("file", ["a.counts", "ended"])
def test_a_file_that_cannot_be_read_is_as_one_that_is_not_there(file: str, folder: RuntimeFolder) -> None:
    begin(folder, "a")
    (folder.path / file).write_bytes(b"\xc1")
    assert told(folder.others({"b": counted(1)}, ["a"])) == 1


def test_a_crash_while_the_dead_are_buried_loses_and_doubles_nothing(
    folder: RuntimeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    begin(folder, "a")
    folder.write("a", counted(5))
    for name in ("replace", "unlink"):  # before it is done, and after it
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, name, crash)
            folder.others({}, ["a"])
        assert (folder.path / "a.counts").exists()
    assert told(folder.others({"b": counted(1)}, [])) == 6
    assert told(folder.others({"b": counted(1)}, ["a"])) == 6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["count", "kill", "leave", "scrape", "silent"]))))
def test_what_is_told_never_falls(events: list[tuple[str, str]]) -> None:
    """Workers count, tell, end and begin anew in any order; ``d`` is the one that is asked."""
    with tempfile.TemporaryDirectory() as path:
        folder = RuntimeFolder(Path(path))
        counts = dict.fromkeys("abc", 0.0)
        births = dict.fromkeys("abc", 0)
        highest = everything = 0.0
        gone: list[str] = []
        for worker, event in events:
            name = f"{worker}{births[worker]}"
            begin(folder, name)
            match event:
                case "count":
                    counts[worker] += 1
                    everything += 1
                case "kill" | "leave":
                    if event == "leave":
                        folder.write(name, counted(counts[worker]))
                        folder.leave(name)
                    else:
                        gone.append(name)
                    births[worker] += 1
                    counts[worker] = 0.0
                case _:
                    answered = {"d": counted(0)}
                    for other in "abc":
                        if other != worker or event != "silent":
                            one = f"{other}{births[other]}"
                            folder.write(one, counted(counts[other]))
                            answered[one] = counted(counts[other])
                    found = told(folder.others(answered, gone))
                    assert highest <= found <= everything
                    highest = found


# -- whose it is -------------------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_private_and_named_after_the_parent(temporary: Path) -> None:
    folder = RuntimeFolder.of(os.getpid())
    assert RuntimeFolder.of(os.getpid()).path == folder.path
    assert folder.path.parent == temporary
    assert folder.path.stat().st_mode & 0o777 == 0o700
    remove_of(os.getppid())
    assert folder.path.exists()
    remove_of(os.getpid())
    assert list(temporary.iterdir()) == []


def test_one_of_somebody_else_is_not_used(temporary: Path) -> None:
    path = RuntimeFolder.of(os.getpid()).path
    path.chmod(0o755)
    with pytest.raises(PermissionError, match="not a private folder"):
        RuntimeFolder.of(os.getpid())
    path.rmdir()
    path.symlink_to(temporary)
    with pytest.raises(PermissionError, match="not a private folder"):
        RuntimeFolder.of(os.getpid())


def test_those_of_dead_parents_are_swept_and_no_others(temporary: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        alive = RuntimeFolder.of(other.pid).path
        strange = temporary / f"sluice-{os.getuid()}-notes"
        again = temporary / f"sluice-{os.getuid()}-{os.getpid()}-1"  # a number that another process has now
        for path in (strange, again):
            path.mkdir()
        (again / "a.counts").touch()
        mine = RuntimeFolder.of(os.getpid()).path
        assert set(temporary.iterdir()) == {alive, strange, mine}
        other.communicate(b"\n")
    RuntimeFolder.of(os.getpid())
    assert set(temporary.iterdir()) == {strange, mine}
