"""The schema that this program needs, checked at each start; `app.storage.migrate` brings a database to it."""

from __future__ import annotations

import trio

from app.errors import QueryFailed, StartError
from app.storage.database import Database, Rows

HEAD = "0004"
"""The revision that this program needs: the newest of the migrations."""

VERSION_TABLE = "sluice_schema"
_CHECK_SECONDS = 10.0
_ADVICE = "run `python -m app migrate`"


async def check_schema(database: Database) -> None:
    """*Errors*: StartError unless the schema is the one that this program needs; also after `_CHECK_SECONDS`."""
    rows: Rows = []
    with trio.move_on_after(_CHECK_SECONDS) as scope:
        try:
            rows = await database.fetch(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
        except QueryFailed as error:
            raise StartError(f"the database has no schema of Sluice: {_ADVICE}") from error
    if scope.cancelled_caught:
        raise StartError(f"the database has not told its schema within {_CHECK_SECONDS:g} s: is it locked?")
    found = str(rows[0][0]) if rows else "none"
    if found < HEAD or not rows:
        raise StartError(f"the database's schema is too old ({found}, needed: {HEAD}): {_ADVICE}")
    if found > HEAD:
        raise StartError(f"the database's schema is newer ({found}) than this program ({HEAD}): update the program")
