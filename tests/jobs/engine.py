"""An engine whose calls do what a test says, and an instance that dies when one says so."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import trio

from app.errors import Overloaded, TaskCancelled
from app.storage.database import Database


@dataclass(frozen=True)
class Told:
    done: float = 0
    total: float | None = None
    message: str = ""


class Submission:
    """One call. stubborn: it does not listen to `cancel`."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.state: Literal["queued", "running", "ended"] = "queued"
        self.progress = Told()
        self.cancelled = False
        self.left = False
        self.left_event = trio.Event()
        self._stubborn = stubborn
        self._outcome: bytes | Exception | None = None
        self._news = trio.Event()
        self._ended = trio.Event()

    # -- what a test says ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.state = "running"
        self._news.set()

    def tell(self, done: float, total: float | None = None, message: str = "") -> None:
        self.progress = Told(done, total, message)
        self._news.set()

    def end(self, outcome: bytes | Exception) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self.state = "ended"
            self._news.set()
            self._ended.set()

    # -- the contract --------------------------------------------------------------------------------------------------

    async def changed(self) -> None:
        await self._news.wait()
        if self.state != "ended":
            self._news = trio.Event()

    async def result(self) -> bytes:
        await self._ended.wait()
        if isinstance(self._outcome, bytes):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def cancel(self) -> None:
        self.cancelled = True
        if not self._stubborn:
            self.end(TaskCancelled("the task was cancelled"))


class Engine:
    """places: of calls at once; past it they are refused. stubborn: as of its calls."""

    def __init__(self, places: int = 100, *, stubborn: bool = False) -> None:
        self.places = places
        self.calls: dict[str, Submission] = {}
        self.inside = 0
        self.retry_after: float | None = 7.0
        self._stubborn = stubborn
        self._came = trio.Event()

    @asynccontextmanager
    async def submit(self, call: str, /) -> AsyncGenerator[Submission]:
        await trio.lowlevel.checkpoint()
        if self.inside >= self.places:
            raise Overloaded("no place", retry_after=self.retry_after)
        self.inside += 1
        submission = self.calls[call] = Submission(stubborn=self._stubborn)
        self._came.set()
        self._came = trio.Event()
        try:
            async with trio.open_nursery():  # as a real one has
                yield submission
        finally:
            self.inside -= 1
            submission.left = True
            submission.left_event.set()

    async def call(self, name: str) -> Submission:
        """That call, once it was submitted."""
        while name not in self.calls:
            await self._came.wait()
        return self.calls[name]


class Instance:
    """One of those that run on a database."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(16)
        self.callbacks: list[Callable[[str], Awaitable[None]]] = []

    def when_dead(self, callback: Callable[[str], Awaitable[None]], /) -> None:
        self.callbacks.append(callback)

    async def find_dead(self, id: str) -> None:
        for callback in self.callbacks:
            await callback(id)

    async def enter(self, database: Database) -> None:
        await database.execute("INSERT INTO instances (id, beat) VALUES (?, 1)", (self.id,))
