"""Rooms of jobs on one database, as several instances have them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from app.errors import InvalidArguments
from app.flow.drain import DrainGate
from app.flow.threads import ThreadPool
from app.jobs.job import Job
from app.jobs.service import Jobs, open_jobs
from app.jobs.upkeep import Upkeep
from app.settings import JobSettings
from app.storage.database import Database
from tests.jobs.engine import Engine, Instance, Submission

TTL = 3600.0


@dataclass(frozen=True)
class Room:
    """One instance's jobs, and what they run on."""

    jobs: Jobs[str]
    engine: Engine
    gate: DrainGate
    instance: Instance
    database: Database
    folder: Path

    async def begin(self, name: str, retry_call: bytes | None = None) -> tuple[Job, Submission]:
        """A job of the call ``name``, admitted, and the call."""
        job = await self.jobs.begin("task", name, retry_call=retry_call)
        return job, await self.engine.call(name)

    async def seen(self, job: Job, state: str) -> Job:
        """The job once it is in that state."""
        with trio.fail_after(20):
            job = await self.jobs.find(job.id)
            while job.state != state:
                job = await self.jobs.later(job)
        return job

    async def go_round(self) -> None:
        """The upkeep, once."""
        jobs = self.jobs
        upkeep = Upkeep(jobs._store, jobs._results, jobs._runs, self.gate, self.instance.id, _revive)
        await upkeep.go_round()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}


def _revive(_task: str, call: bytes) -> str:
    if not call:
        raise InvalidArguments("nothing")
    return call.decode()


@asynccontextmanager
async def open_room(database: Database, folder: Path, engine: Engine | None = None) -> AsyncGenerator[Room]:
    engine, gate, instance = engine or Engine(), DrainGate(), Instance()
    await instance.enter(database)
    opening = open_jobs(
        database,
        engine,
        instance,
        gate,
        JobSettings(folder, TTL),
        ThreadPool("files", 4),
        revive=_revive,
        grace=0.2,
    )
    async with opening as jobs:
        yield Room(jobs, engine, gate, instance, database, folder)


@pytest.fixture
async def room(database: Database, tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(database, tmp_path / "jobs") as opened:
        yield opened
