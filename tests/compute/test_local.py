"""What the local engine holds in this process, and what it does where there is no more to be had."""

from __future__ import annotations

import errno
import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest

import app.compute.workers
from app.compute.engine import Call
from app.compute.local import open_local_engine
from app.compute.payload import Inline
from app.compute.pipes import WorkerPipes
from app.errors import SluiceError, WorkerCrashed
from app.settings import ComputeSettings
from tests.flow.test_processes import wait_until

_MODULES = ["tests.compute.behaving"]
_WORKERS = 2
_SETTINGS = ComputeSettings(
    workers=_WORKERS,
    queue=4,
    memory=512 * 1024**2,
    processor=600,
    grace=0.5,
    tasks_per_worker=1000,
    max_body=64 * 1024**2,
)


def _files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _too_many() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_crash_leaves_no_files_behind_until_something_collects_them() -> None:
    async with open_local_engine(_SETTINGS, _MODULES) as engine:
        await wait_until(lambda: engine.statistics().ready == _WORKERS)
        gc.collect()
        before = _files()
        gc.disable()
        try:
            for _ in range(3):
                with pytest.raises(WorkerCrashed):
                    async with engine.submit(Call("segfault", Inline(b"{}"))) as submitted:
                        await submitted.result()
            await wait_until(lambda: engine.statistics().ready == _WORKERS and _files() == before)
        finally:
            gc.enable()


async def test_a_worker_for_which_there_are_no_files_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def scarce() -> WorkerPipes:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise _too_many()
        return WorkerPipes()

    monkeypatch.setattr(app.compute.workers, "WorkerPipes", scarce)
    async with (
        open_local_engine(replace(_SETTINGS, workers=1), _MODULES) as engine,
        engine.submit(Call("echo", Inline(b'{"value":1}'))) as submitted,
    ):
        assert await submitted.result() == b"1"
    assert tries == 3


async def test_a_call_for_which_there_is_no_file_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise _too_many()

    async with open_local_engine(replace(_SETTINGS, workers=1), _MODULES) as engine:
        await wait_until(lambda: engine.statistics().ready == 1)
        with monkeypatch.context() as scarce:
            scarce.setattr(os, "memfd_create", refuse)
            with pytest.raises(SluiceError, match="could not be sent") as told:
                async with engine.submit(Call("echo", Inline(b'{"value":"%b"}' % (b"x" * 5000)))) as submitted:
                    await submitted.result()
            assert "Too many open files" in (told.value.internal or "")
            async with engine.submit(Call("echo", Inline(b'{"value":1}'))) as submitted:
                assert await submitted.result() == b"1"
        statistics = engine.statistics()
        assert (statistics.running, statistics.waiting) == (0, 0)


@pytest.mark.parametrize("made", [0, 1])
def test_pipes_that_are_not_all_to_be_had_are_closed(monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    before, real, count = _files(), os.pipe2, 0

    def scarce(flags: int) -> tuple[int, int]:
        nonlocal count
        count += 1
        if count > made:
            raise _too_many()
        return real(flags)

    monkeypatch.setattr(os, "pipe2", scarce)
    with pytest.raises(OSError, match="Too many open files"):
        WorkerPipes()
    assert _files() == before


def test_pipes_are_closed() -> None:
    before = _files()
    WorkerPipes().close()
    assert _files() == before
