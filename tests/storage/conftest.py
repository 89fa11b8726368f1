"""A reports folder for the tests of files, and a look at what they leave open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.flow.threads import ThreadPool
from app.storage.blobs import Blob, LocalBlobs

SECRET = b"secret"
BYTES = b"%PDF-" + bytes(range(256)) * 6000  # some chunks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reports folder, beside a file that is nobody's report."""
    (tmp_path / "secret.pdf").write_bytes(SECRET)
    (folder := tmp_path / "reports").mkdir()
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.pdf").write_bytes(BYTES)
    (folder / "deep" / "er" / "b.pdf").write_bytes(BYTES)
    return folder


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(folder: Path, clock: Clock) -> Iterator[LocalBlobs]:
    """What is below the folder. Time passes by ``clock`` only."""
    with closing(LocalBlobs(folder, ThreadPool("files", 4), clock)) as blobs:
        yield blobs


@pytest.fixture
def nothing_stays_open(folder: Path) -> Iterator[None]:
    """Whatever a test does, no descriptor of a file is left open. (Trio's own are none of a file.)"""
    before = open_files(folder.parent)
    yield
    assert open_files(folder.parent) == before


def open_files(below: Path) -> list[str]:
    """What this process has open there, and of the files outside that tests try to reach."""
    found: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the descriptor of this very listing
            continue
        if target.startswith((str(below), "/dev/zero", "/etc")):
            found.append(target)
    return sorted(found)


async def content(blob: Blob) -> bytes:
    """All of its bytes; it is closed."""
    with closing(blob):
        async with blob.chunks(0, blob.size) as chunks:
            return b"".join([chunk async for chunk in chunks])
