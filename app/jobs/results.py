"""Where results are kept: in the job's row, or, where they are large, in files of one folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog

from app.errors import InsufficientStorage, JobLost, ReportsUnwritable, ResultUnusable, SluiceError, StartError
from app.flow.threads import ThreadPool
from app.jobs.store import Kept, Store
from app.storage.blobs import Blob, BlobUnreadable, LocalBlobs

_log = structlog.get_logger()

ROW_BYTES = 1024 * 1024
"""A result up to here is in its job's row."""

_SUFFIX = ".json"
_STEP_BYTES = 1024 * 1024


class Results:
    """A file and its row are not atomic: the file is written and locked, then the row is committed that names it, then
    it is unlocked. What a crash leaves after the first step, or where a row was removed before its file, is a file that
    no row names: the next `sweep` removes it."""

    def __init__(self, blobs: LocalBlobs, store: Store) -> None:
        self._blobs = blobs
        self._store = store

    @asynccontextmanager
    async def keeping(self, result: bytes) -> AsyncGenerator[tuple[Kept, Callable[[], None]]]:
        """Where the row will find ``result``, for as long as it takes to write that; and what is to be called where a
        row certainly does not name it.

        *Errors*: InsufficientStorage, ResultUnusable, before the block is entered.
        """
        if len(result) <= ROW_BYTES:
            yield Kept(result), lambda: None
            return
        async with self._blobs.incoming() as upload:
            try:
                for at in range(0, len(result), _STEP_BYTES):
                    await upload.write(result[at : at + _STEP_BYTES])
                file = (await upload.finish(_SUFFIX)).path
            except InsufficientStorage as error:
                reason = error.internal
                raise InsufficientStorage("there is no room for the job's result", internal=reason) from error
            except ReportsUnwritable as error:
                raise ResultUnusable("the job's result cannot be kept", internal=error.internal) from error
            upload.keep()
            yield Kept(file=file), upload.drop

    async def open(self, path: str) -> Blob:
        """*Errors*: JobLost where the file is not there any more, nor anybody's fault but ours."""
        try:
            return await self._blobs.open(path)
        except BlobUnreadable as error:
            raise JobLost("the job's result cannot be read", internal=str(error)) from error

    async def remove(self, paths: Collection[str]) -> None:
        """Of files that no row names any more."""
        for path in paths:
            try:
                await self._blobs.remove(path)
            except OSError as error:
                _log.warning("result not removed", path=path, reason=error.strerror or str(error))

    async def sweep(self) -> None:
        """Removes what crashes have left behind; what keeps it from that is logged."""
        try:
            removed = await self._blobs.sweep(self._store.named)
        except (SluiceError, OSError) as error:
            _log.warning("sweep of results given up", reason=getattr(error, "internal", None) or str(error))
        else:
            _log.info("results swept", removed=removed)

    def close(self) -> None:
        self._blobs.close()


async def open_results(directory: Path, threads: ThreadPool, store: Store) -> Results:
    """*Errors*: StartError where the folder cannot be made or written to."""
    blobs = LocalBlobs(directory, threads)
    try:
        await threads.run(partial(directory.mkdir, parents=True, exist_ok=True))
        await blobs.probe()
    except OSError as error:
        raise StartError(f"the jobs folder {directory} cannot be used: {error.strerror or error}") from error
    return Results(blobs, store)
