"""What computing needs of others, where an answer is to outlive its request: the composer hands it over."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Protocol

from app.compute.service import Prepared
from app.http.answers import Answer
from app.http.prefer import Preferences


class Claim(Protocol):
    """An idempotency key, while its request is answered. kept: the answer that the same request got before."""

    @property
    def kept(self) -> Answer | None: ...

    async def keep(self, answer: Answer, /) -> object: ...


class Later(Protocol):
    def claim(self, route: str, key: str, fingerprint: str, /) -> AbstractAsyncContextManager[Claim]:
        """*Errors*: IdempotencyMismatch, IdempotencyConflict, and those of the database."""
        ...

    async def begin(self, prepared: Prepared, preferences: Preferences, resources: ExitStack, /) -> Answer:
        """The answer of a job: where it is, or, where that is there within the time that is preferred, its result.

        resources: are the job's from then on.
        *Cancellation*: cancels the job, which nobody knows of. *Errors*: those of the engine and the database.
        """
        ...
