"""The running instances (server processes) on one database, and what is done for one that died."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import structlog
import trio

from app.errors import SluiceError, StartError
from app.storage.database import Database
from app.storage.silences import Silences

_log = structlog.get_logger()

BEAT_SECONDS = 2.0
DEAD_SECONDS = 10.0
_LEAVE_SECONDS = 2.0

type WhenDead = Callable[[str], Awaitable[None]]


@asynccontextmanager
async def open_instances(
    database: Database, *, beat_seconds: float = BEAT_SECONDS, dead_seconds: float = DEAD_SECONDS
) -> AsyncGenerator[Instances]:
    """This process is an instance for as long as the block lasts.

    All instances on a database need the same ``dead_seconds``, at least three times ``beat_seconds``.

    *Errors*: StartError where it cannot be entered. *Cancellation*: its row is removed, in `_LEAVE_SECONDS` at most;
    what remains is found dead by the others.
    """
    instances = Instances(database, beat_seconds, dead_seconds)
    try:
        await instances.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instances.live)
            nursery.start_soon(instances.bury)
            yield instances
            nursery.cancel_scope.cancel()
    finally:
        await instances.leave()


class Instances:
    """Who else is there, and who died.

    Each instance has a row, whose ``beat`` rises every ``beat_seconds``. One whose beat stands still for
    ``dead_seconds`` is dead. That is measured by the observer's own monotonic clock, and only over looks that
    succeeded without a failure in between: while the database is away nobody is found dead, and afterwards each has
    its time anew. The dead are found ``dead_seconds`` to ``dead_seconds + 2 × beat_seconds`` after their last beat,
    by one of the others at least.

    An instance that only was held up for that long may be taken for dead, and goes on: it enters itself again. So what
    it does under its `id` has to ask whether that still is its own, as by ``WHERE owner = ?``.

    id: 32 hexadecimal digits, new for each process.

    Bound: two statements a beat, each answered within half of ``dead_seconds`` or given up; one row per instance.
    """

    def __init__(self, database: Database, beat_seconds: float, dead_seconds: float) -> None:
        self.id = secrets.token_hex(16)
        self._database = database
        self._beat_seconds = beat_seconds
        self._patience = dead_seconds / 2
        self._silences = Silences(dead_seconds, 2 * beat_seconds)
        self._when_dead: list[WhenDead] = []
        self._beat = 1
        self._away = False
        self._found_dead = trio.Event()

    def when_dead(self, call: WhenDead) -> None:
        """Has ``call`` awaited with the id of each instance that died.

        To be told before this process can have found anybody dead: at once after `open_instances`. ``call`` has to be
        idempotent: several instances may call theirs at the same time, and it is called again at the next look where
        it, or another one, failed. When all have returned, the row of the dead is removed.
        """
        self._when_dead.append(call)

    async def is_alive(self, id: str) -> bool:
        """Whether there is an instance of that id, as far as is known here. *Errors*: those of the database."""
        if id in self._silences.dead():
            return False
        return bool(await self._database.fetch("SELECT id FROM instances WHERE id = ?", (id,)))

    # -- what runs -----------------------------------------------------------------------------------------------------

    async def enter(self) -> None:
        try:
            await self._insert()
        except SluiceError as error:
            raise StartError(f"the database does not take a new instance: {error.internal or error.detail}") from error

    async def live(self) -> None:
        """Beats and looks, until it is cancelled."""
        while True:
            begun = trio.current_time()
            failure = "no answer in time"
            with trio.move_on_after(self._patience):
                failure = await self._try_once()
            self._tell(failure)
            if self._silences.dead():
                self._found_dead.set()
            await trio.sleep_until(begun + self._beat_seconds)

    async def bury(self) -> None:
        """Puts in order what the dead have left, until it is cancelled."""
        while True:
            await self._found_dead.wait()
            self._found_dead = trio.Event()
            for id, beat in self._silences.dead().items():
                await self._bury(id, beat)

    async def leave(self) -> None:
        """Removes our row. *Cancellation*: shielded."""
        reason = "no answer in time"
        with trio.move_on_after(_LEAVE_SECONDS, shield=True):
            try:
                await self._database.execute("DELETE FROM instances WHERE id = ?", (self.id,))
            except SluiceError as error:
                reason = error.internal or error.detail
            else:
                return
        _log.warning("instance not removed", instance=self.id, reason=reason)

    async def _try_once(self) -> str | None:
        """One beat and one look, in this order: who cannot beat has no right to judge others. The failure, if any."""
        try:
            self._beat += 1
            sql = "UPDATE instances SET beat = ? WHERE id = ?"
            if not await self._database.execute(sql, (self._beat, self.id)):
                _log.warning("taken for dead by another instance; entered again", instance=self.id)
                await self._insert()
            rows = await self._database.fetch("SELECT id, beat FROM instances")
        except SluiceError as error:
            return error.internal or error.detail
        others = {cast("str", id): cast("int", beat) for id, beat in rows if id != self.id}
        self._silences.look(others, trio.current_time())
        return None

    def _tell(self, failure: str | None) -> None:
        if failure is not None:
            self._silences.miss()
            if not self._away:
                _log.warning("instances cannot be watched", reason=failure)
        elif self._away:
            _log.info("instances are watched again")
        self._away = failure is not None

    async def _bury(self, id: str, beat: int) -> None:
        _log.warning("instance is dead", dead=id)
        try:
            for call in self._when_dead:
                await call(id)
            # Unless it has beaten meanwhile.
            await self._database.execute("DELETE FROM instances WHERE id = ? AND beat = ?", (id, beat))
            self._silences.forget(id)
        except SluiceError as error:
            _log.warning("dead instance not put in order", dead=id, reason=error.internal or error.detail)
        except Exception:  # noqa: BLE001 - whatever it is, it is tried again, and the others are watched
            _log.exception("dead instance not put in order", dead=id)

    async def _insert(self) -> None:
        await self._database.execute("INSERT INTO instances (id, beat) VALUES (?, ?)", (self.id, self._beat))
