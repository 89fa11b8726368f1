"""Ids of published events, kept by an idempotency key."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from app.storage.idempotency import Claim, IdempotencyKeys, KeptAnswer


class PublishedKeys:
    """`app.live.keys.Keys`."""

    def __init__(self, keys: IdempotencyKeys) -> None:
        self._keys = keys

    @asynccontextmanager
    async def claim(self, route: str, key: str, fingerprint: str) -> AsyncGenerator[_Claim]:
        async with self._keys.claim(route, key, fingerprint) as claim:
            yield _Claim(claim)


class _Claim:
    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    @property
    def kept(self) -> str | None:
        return None if self._claim.kept is None else self._claim.kept.body.decode()

    async def keep(self, id: str) -> bool:
        return await self._claim.keep(KeptAnswer(202, (), id.encode()))
