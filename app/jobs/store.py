"""Jobs as rows. A job is its owner's: nobody else changes it while that instance lives; each change asks for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from app.jobs.job import ACTIVE, INLINE_BYTES, Job, Progress, State
from app.storage.database import Database, Row, Scalar


@dataclass(frozen=True)
class Kept:
    """Where a result is: in the row, or in a file of this name; or nowhere, as there is none."""

    data: bytes | None = None
    file: str | None = None


NOTHING = Kept()


@dataclass(frozen=True)
class Orphan:
    """An active job, and what matters once its owner has died. call: what it may be run again with."""

    job: Job
    call: bytes | None
    cancel_requested: bool


class Store:
    """*Errors*: those of `Database`. ttl: seconds for which a job is kept once it is over."""

    def __init__(self, database: Database, ttl: float) -> None:
        self._database = database
        self._ttl = ttl

    # -- one job -------------------------------------------------------------------------------------------------------

    async def insert(self, job: Job, call: bytes | None) -> None:
        """call: what it is run again with where its owner dies; None where it must not be."""
        values = (job.id, job.task, job.state, job.revision, job.owner, call, job.created)
        await self._database.execute(_INSERT, values)

    async def withdraw(self, job: Job) -> None:
        """Removes a job that was never begun, where its row is there."""
        await self._database.execute("DELETE FROM jobs WHERE id = ? AND owner = ?", (job.id, job.owner))

    async def write(self, job: Job, kept: Kept = NOTHING, *, by: str | None = None) -> bool:
        """Replaces an active job of ``by`` (the owner, unless another is named) by its next revision; whether it was
        there. Of several who try, the first one does it. Who takes a job over is the last to run it."""
        progress = job.progress
        expires = None if job.finished is None else job.finished + self._ttl
        values = (job.owner, job.state, job.revision, progress.done, progress.total, progress.message)
        ends = (job.started, job.finished, expires, kept.data, kept.file, job.error)
        sql = f"{_UPDATE}{', `call` = NULL' if job.is_over or by is not None else ''} {_ITS_OWN}"
        return bool(await self._database.execute(sql, (*values, *ends, job.id, by or job.owner, job.revision)))

    async def find_many(self, ids: Sequence[str]) -> Mapping[str, Job]:
        rows = await self._database.fetch(f"SELECT {_COLUMNS} FROM jobs WHERE id IN ({_marks(ids)})", ids)  # noqa: S608
        return {job.id: job for job in map(_job_of, rows)}

    async def kept(self, id: str) -> Kept:
        rows = await self._database.fetch("SELECT result, result_file FROM jobs WHERE id = ?", (id,))
        return Kept(_bytes(rows[0][0]), _text(rows[0][1])) if rows else NOTHING

    # -- cancelling ----------------------------------------------------------------------------------------------------

    async def request_cancel(self, id: str) -> None:
        """Has the owner cancel the job, if it is active."""
        sql = f"UPDATE jobs SET cancel_requested = 1 WHERE id = ? AND state IN {_ACTIVE}"  # noqa: S608
        await self._database.execute(sql, (id,))

    async def cancel_requested(self, owner: str) -> list[str]:
        sql = f"SELECT id FROM jobs WHERE owner = ? AND state IN {_ACTIVE} AND cancel_requested = 1"  # noqa: S608
        return [str(_text(id)) for (id,) in await self._database.fetch(sql, (owner,))]

    # -- what others have left -----------------------------------------------------------------------------------------

    async def active(self, owner: str) -> list[Orphan]:
        sql = f"SELECT {_COLUMNS}, `call`, cancel_requested FROM jobs WHERE owner = ? AND state IN {_ACTIVE}"  # noqa: S608
        rows = await self._database.fetch(sql, (owner,))
        return [Orphan(_job_of(row), _bytes(row[-2]), bool(row[-1])) for row in rows]

    async def owners_gone(self) -> list[str]:
        """Owners of jobs that are no instances any more. Their jobs are over, unless they could not write down how
        those ended, or somebody died who was about to see to that."""
        return [str(_text(owner)) for (owner,) in await self._database.fetch(_OWNERS_GONE)]

    async def expired(self, now: float, most: int) -> dict[str, str | None]:
        """Jobs that have been kept for long enough, with the file of each that has one."""
        sql = "SELECT id, result_file FROM jobs WHERE expires < ? ORDER BY expires LIMIT ?"
        return {str(_text(id)): _text(file) for id, file in await self._database.fetch(sql, (now, most))}

    async def remove(self, ids: Sequence[str]) -> None:
        await self._database.execute(f"DELETE FROM jobs WHERE id IN ({_marks(ids)})", ids)  # noqa: S608

    async def named(self, paths: Sequence[str], settled: bool) -> set[str]:
        """Those of ``paths`` that a row names. ``settled``: once the transactions that are about to name them have
        ended."""
        lock = " LOCK IN SHARE MODE" if settled and self._database.dialect == "mysql" else ""
        sql = f"SELECT result_file FROM jobs WHERE result_file IN ({_marks(paths)}){lock}"  # noqa: S608
        return {str(_text(path)) for (path,) in await self._database.fetch(sql, paths)}


def _job_of(row: Row) -> Job:
    id, task, state, revision, owner, done, total, message, created, started, finished, result, has_result, error = row[
        :14
    ]
    return Job(
        id=str(_text(id)),
        task=str(_text(task)),
        state=cast("State", _text(state)),
        revision=int(cast("int", revision)),
        owner=str(_text(owner)),
        created=float(cast("float", created)),
        progress=Progress(float(cast("float", done)), _number(total), str(_text(message))),
        started=_number(started),
        finished=_number(finished),
        result=_bytes(result),
        has_result=bool(has_result),
        error=_bytes(error),
    )


def _number(value: Scalar) -> float | None:
    return None if value is None else float(value)


def _text(value: Scalar) -> str | None:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)


def _bytes(value: Scalar) -> bytes | None:
    return value.encode() if isinstance(value, str) else None if value is None else bytes(cast("bytes", value))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


_ACTIVE = repr(ACTIVE)
_COLUMNS = (
    "id, task, state, revision, owner, done, total, message, created, started, finished,"
    f" CASE WHEN length(result) <= {INLINE_BYTES} THEN result END,"
    " result IS NOT NULL OR result_file IS NOT NULL, error"
)
_INSERT = (
    "INSERT INTO jobs (id, task, state, revision, owner, `call`, created, cancel_requested, done, message)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, '')"
)
# The inner query skips from owner to owner in the index, however many jobs each has.
_OWNERS_GONE = (
    "SELECT owner FROM (SELECT DISTINCT owner FROM jobs) AS owners WHERE owner NOT IN (SELECT id FROM instances)"
)
_UPDATE = (
    "UPDATE jobs SET owner = ?, state = ?, revision = ?, done = ?, total = ?, message = ?, started = ?, finished = ?,"
    " expires = ?, result = ?, result_file = ?, error = ?"
)
_ITS_OWN = f"WHERE id = ? AND owner = ? AND state IN {_ACTIVE} AND revision < ?"
