"""Databases with jobs, and jobs as they are seen from outside: over HTTP, and in the database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.computing import post
from tests.faults.traffic import RawClient, ask, wait_until
from tests.mariadb import MariaDb, environment
from tests.processes import run

type Query = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class JobStore:
    """What servers have in common: a data folder and a database. environment: the variables that name the latter."""

    folder: Path
    query: Query
    environment: dict[str, str] = field(default_factory=dict[str, str])

    def state(self, id: str) -> str:
        """Of a job, by its row."""
        ((state,),) = self.query("SELECT state FROM jobs WHERE id = %s", (id,))
        return state

    def error(self, id: str) -> str:
        """The name of the error that it ended by."""
        ((error,),) = self.query("SELECT error FROM jobs WHERE id = %s", (id,))
        return json.loads(error)["type"].removeprefix("urn:sluice:error:")

    def ids(self) -> set[str]:
        """Of all jobs."""
        return {id for (id,) in self.query("SELECT id FROM jobs", ())}


def embedded_store(folder: Path) -> JobStore:
    """The one of a data folder."""

    def query(sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(folder / "sluice.db", timeout=20)) as connection:
            return connection.execute(sql.replace("%s", "?"), parameters).fetchall()

    return JobStore(folder, query)


def mysql_store(folder: Path, mariadb: MariaDb) -> JobStore:
    """A new one."""
    settings = mariadb.create_database()

    def query(sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        return mariadb.query(sql, parameters, database=settings.name)

    store = JobStore(folder, query, environment(settings))
    done = run(folder, "migrate", **store.environment)
    assert done.returncode == 0, done.stderr
    return store


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def begin(port: int, body: bytes, **fields: str) -> str:
    """The id of a job that a request has begun."""
    head, document = post(port, body, Prefer="respond-async", **fields)
    assert head.status == 202, document
    assert head.fields["location"] == f"/api/jobs/{document['id']}"
    return document["id"]


def shown(port: int, id: str) -> Any:
    head, document = ask(port, f"/api/jobs/{id}")
    assert head.status == 200, document
    return document


def until(port: int, id: str, state: str, seconds: float = 20) -> Any:
    """The job as it is shown once it is in that state."""
    wait_until(lambda: shown(port, id)["state"] == state, f"job {id} is {state}", seconds)
    return shown(port, id)


def delete(port: int, id: str) -> int:
    """The status of the answer."""
    with RawClient(port) as client:
        client.request("DELETE", f"/api/jobs/{id}")
        return client.answer()[0].status
