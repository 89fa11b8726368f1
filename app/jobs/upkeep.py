"""What has to be seen to from time to time: cancellations from elsewhere, jobs of the dead, jobs that are kept no
longer."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
import trio

from app.errors import SluiceError
from app.flow.drain import DrainGate
from app.jobs.job import orphaned
from app.jobs.results import Results
from app.jobs.runs import Runs
from app.jobs.store import Orphan, Store

_log = structlog.get_logger()

_ATTEND_SECONDS = 0.5
_UPKEEP_SECONDS = 15.0
_MOST_EXPIRED = 100


class Upkeep[C]:
    """Every instance does this for all: whoever comes first does it, the others find it done.

    revive: makes a call anew of what was stored with its job. *Errors* of it: SluiceError.
    """

    def __init__(
        self,
        store: Store,
        results: Results,
        runs: Runs[C],
        gate: DrainGate,
        owner: str,
        revive: Callable[[str, bytes], C],
    ) -> None:
        self._store = store
        self._results = results
        self._runs = runs
        self._gate = gate
        self._owner = owner
        self._revive = revive
        self._one_at_a_time = trio.Lock()

    async def attend(self) -> None:
        """Cancels what others were asked to cancel, soon after; while anything runs here."""
        while True:
            await self._runs.wait_any()
            await trio.sleep(_ATTEND_SECONDS)
            try:
                for id in await self._store.cancel_requested(self._owner):
                    if (run := self._runs.running.get(id)) is not None:
                        run.cancel()
            except SluiceError as error:
                _log.info("cancellations not looked for", reason=error.internal or error.detail)

    async def run(self) -> None:
        """Goes round now and then."""
        while True:
            try:
                await self.go_round()
            except SluiceError as error:
                _log.warning("upkeep of jobs given up for now", reason=error.internal or error.detail)
            except Exception:  # noqa: BLE001 - it will be tried again
                _log.exception("upkeep of jobs failed")
            await trio.sleep(_UPKEEP_SECONDS)

    async def go_round(self) -> None:
        """*Errors*: those of the database."""
        await self._forget_expired()
        for owner in {*await self._store.owners_gone(), self._owner}:
            await self.bury(owner)

    async def bury(self, owner: str) -> None:
        """Ends, or runs again, the jobs of an instance that died; of our own those that should run, and do not.
        Idempotent.

        *Errors*: those of the database; what was done stays done.
        """
        async with self._one_at_a_time:
            for orphan in await self._store.active(owner):
                if orphan.job.id not in self._runs.running:
                    await self._take(orphan)

    async def _take(self, orphan: Orphan) -> None:
        job = orphan.job
        again = None
        # One of ours was computed already, but its end could not be written; or it was never begun.
        if orphan.call is not None and not orphan.cancel_requested and job.owner != self._owner:
            if self._gate.draining:
                return  # another instance will find it
            again = self._revived(job.task, orphan.call)
        after = orphaned(
            job,
            self._owner,
            time.time(),
            may_run_again=again is not None,
            cancel_requested=orphan.cancel_requested,
        )
        if await self._store.write(after, by=job.owner):
            _log.warning("job of a dead instance", job=job.id, state=after.state, dead=job.owner)
            if again is not None:
                self._runs.resume(after, again)
            else:
                self._runs.ended[after.state] += 1

    def _revived(self, task: str, call: bytes) -> C | None:
        try:
            return self._revive(task, call)
        except SluiceError as error:
            _log.warning("a job cannot be run again", task=task, reason=error.internal or error.detail)
            return None

    async def _forget_expired(self) -> None:
        """First the rows, then the files: what a crash leaves in between is swept."""
        while expired := await self._store.expired(time.time(), _MOST_EXPIRED):
            await self._store.remove(list(expired))
            await self._results.remove([file for file in expired.values() if file is not None])
