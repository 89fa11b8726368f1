"""What publishing needs of the answers that are kept by an ``Idempotency-Key``."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Claim(Protocol):
    """kept: the id that the same request got before; else there is one to `keep`."""

    @property
    def kept(self) -> str | None: ...
    async def keep(self, id: str, /) -> object: ...


class Keys(Protocol):
    """*Errors*: IdempotencyConflict, IdempotencyMismatch; those of the database."""

    def claim(self, route: str, key: str, fingerprint: str, /) -> AbstractAsyncContextManager[Claim]: ...
