"""Answers that are kept by their ``Idempotency-Key``, so that a request that is sent again is not done again
(draft-ietf-httpapi-idempotency-key-header)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import msgspec
import structlog
import trio

from app.errors import DatabaseUnavailable, DuplicateKey, IdempotencyConflict, IdempotencyMismatch, SluiceError
from app.storage.database import Database, Row
from app.storage.instances import Instances

_log = structlog.get_logger()

MAX_BODY = 1024 * 1024
_KEEP_SECONDS = 5.0
_CLEANUP_SECONDS = 2.0
_TRIES = 3
_SWEEP_CLAIMS = 50
_SWEEP_ROWS = 100
_MOST_LEFT = 1000
# After its expiry, the claim of a request that nobody answers any more and that no instance's death has removed.
_LOST_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class KeptAnswer:
    """An answer as it was given. fields: names in lower case."""

    status: int
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes


class Claim:
    """A key, for as long as its request is answered.

    kept: the answer that the same request got before; then there is nothing to do but to give it again.
    """

    def __init__(self, keys: IdempotencyKeys, id: str, kept: KeptAnswer | None) -> None:
        self.kept = kept
        self.settled = kept is not None
        self._keys = keys
        self._id = id

    async def keep(self, answer: KeptAnswer) -> bool:
        """Has ``answer`` given to whoever sends the same request again, until it expires.

        To be called as soon as what must not be done again is done, without a checkpoint in between. False, after
        which the key is given up, where it cannot be kept: the body is larger than `MAX_BODY`, or the claim is no
        longer ours, because this instance was taken for dead.

        *Cancellation*: shielded, for `_KEEP_SECONDS`: what was done must not be done again because its client left.
        *Errors*: those of the database; then it is unknown whether the answer is kept.
        """
        if len(answer.body) <= MAX_BODY:
            self.settled = await self._keys.keep(self._id, answer)
        return self.settled


class IdempotencyKeys:
    """The keys of one database, which all its instances share.

    ttl: seconds for which an answer is kept.

    Bound: one row for each key that has not expired; with every `_SWEEP_CLAIMS`-th claim up to `_SWEEP_ROWS` that have
    are removed. In memory: one entry for each request with a claim, and `_MOST_LEFT` whose removal failed.
    """

    def __init__(
        self, database: Database, instances: Instances, ttl: float, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._instances = instances
        self._ttl = ttl
        self._clock = clock
        self._running: dict[str, str | None] = {}  # fingerprints by id; None for one that is being removed
        self._left: dict[str, None] = {}
        self._claims = 0
        instances.when_dead(self._remove_claims_of)

    @asynccontextmanager
    async def claim(self, route: str, key: str, fingerprint: str) -> AsyncGenerator[Claim]:
        """The key ``key`` of ``route`` for the request of ``fingerprint``, until the block ends.

        Whoever leaves the block without having kept an answer gives the key up: the request may be sent again.

        *Errors*: IdempotencyMismatch where the key is another request's; IdempotencyConflict where the same one is
        being answered by an instance that is alive; those of the database.
        *Cancellation*: gives the key up, shielded for `_CLEANUP_SECONDS`. Where that fails, this instance tries again
        with its next claim.
        """
        id = hashlib.sha256(f"{route}\0{key}".encode()).hexdigest()
        await self._tidy()
        kept = await self._enter(id, fingerprint)
        claim = Claim(self, id, kept)
        if kept is not None:
            yield claim
            return
        try:
            yield claim
        finally:
            await self._leave(id, settled=claim.settled)

    async def keep(self, id: str, answer: KeptAnswer) -> bool:
        """See `Claim.keep`."""
        fields = msgspec.json.encode(list(answer.fields))
        values = (answer.status, fields, answer.body, self._clock() + self._ttl, id, self._instances.id)
        with trio.move_on_after(_KEEP_SECONDS, shield=True):
            return await self._database.execute(_KEEP, values) > 0
        raise DatabaseUnavailable("the database does not answer", retry_after=1, internal="an answer was to be kept")

    # -- coming and going ----------------------------------------------------------------------------------------------

    async def _enter(self, id: str, fingerprint: str) -> KeptAnswer | None:
        """The answer that is kept; or None, then the key is ours."""
        for _ in range(_TRIES):
            found = await self._find(id)
            if found is not None and (kept := await self._judge(found, id, fingerprint)) is not None:
                return kept
            # In one step with what follows: of several requests here, one goes on.
            self._check_running(id, fingerprint)
            self._running[id] = fingerprint
            taken = False
            try:
                taken = await self._take(id, fingerprint, found)
            except BaseException:
                await self._leave(id, settled=False)  # the row may be there or not
                raise
            if taken:
                return None
            del self._running[id]
        raise _conflict()

    async def _judge(self, found: _Found, id: str, fingerprint: str) -> KeptAnswer | None:
        """The answer in a row, or None where the row counts no more. *Errors*: where the key is not to be had."""
        if found.answer is not None:
            if found.expires <= self._clock():
                return None
            _check_same(found.fingerprint, fingerprint)
            return found.answer
        if found.owner == self._instances.id:
            return None  # what runs here is known without a row
        if await self._instances.is_alive(found.owner):
            _check_same(found.fingerprint, fingerprint)
            raise _conflict()
        return None

    def _check_running(self, id: str, fingerprint: str) -> None:
        if id in self._running:
            running = self._running[id]
            if running is not None:
                _check_same(running, fingerprint)
            raise _conflict()

    async def _find(self, id: str) -> _Found | None:
        rows = await self._database.fetch(_FIND, (id,))
        return _found(rows[0]) if rows else None

    async def _take(self, id: str, fingerprint: str, found: _Found | None) -> bool:
        """Whether our row is there now, instead of the one that counts no more."""
        if found is not None and found.answer is not None:
            await self._database.execute(_REMOVE_EXPIRED, (id, self._clock()))
        elif found is not None:
            await self._database.execute(_REMOVE_CLAIM, (id, found.owner))
        try:
            values = (id, fingerprint, self._instances.id, self._clock() + self._ttl)
            await self._database.execute(_INSERT, values)
        except DuplicateKey:
            return False
        return True

    async def _leave(self, id: str, *, settled: bool) -> None:
        removed = settled
        try:
            if not settled:
                with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
                    removed = await self._remove_own([id])
        finally:
            del self._running[id]
            if not removed and len(self._left) < _MOST_LEFT:
                self._left[id] = None

    # -- putting in order ----------------------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        """What cannot be removed now is left for another time."""
        self._claims += 1
        if left := [id for id in self._left if id not in self._running]:
            await self._remove_left(left[:_SWEEP_ROWS])
        if self._claims % _SWEEP_CLAIMS == 0:
            try:
                await self._sweep()
            except SluiceError as error:
                _log.warning("expired idempotency keys not removed", reason=error.internal or error.detail)

    async def _remove_left(self, left: Sequence[str]) -> None:
        for id in left:
            self._running[id] = None
        try:
            if await self._remove_own(left):
                for id in left:
                    del self._left[id]
        finally:
            for id in left:
                del self._running[id]

    async def _remove_own(self, ids: Sequence[str]) -> bool:
        sql = f"DELETE FROM idempotency_keys WHERE owner = ? AND status IS NULL AND id IN ({_marks(ids)})"  # noqa: S608
        try:
            await self._database.execute(sql, (self._instances.id, *ids))
        except SluiceError as error:
            _log.warning("idempotency key not given up", reason=error.internal or error.detail)
            return False
        return True

    async def _remove_claims_of(self, owner: str) -> None:
        """Of an instance that died. By their keys, so that no others are locked."""
        sql = f"SELECT id FROM idempotency_keys WHERE owner = ? AND status IS NULL LIMIT {_SWEEP_ROWS}"  # noqa: S608
        while rows := await self._database.fetch(sql, (owner,)):
            ids = [id for (id,) in rows]
            remove = f"DELETE FROM idempotency_keys WHERE owner = ? AND status IS NULL AND id IN ({_marks(ids)})"  # noqa: S608
            await self._database.execute(remove, (owner, *ids))

    async def _sweep(self) -> None:
        now = self._clock()
        limits = (now, now - _LOST_SECONDS)
        sql = f"SELECT id FROM idempotency_keys WHERE {_EXPIRED} ORDER BY expires LIMIT {_SWEEP_ROWS}"  # noqa: S608
        if ids := [id for (id,) in await self._database.fetch(sql, limits)]:
            sql = f"DELETE FROM idempotency_keys WHERE {_EXPIRED} AND id IN ({_marks(ids)})"  # noqa: S608
            await self._database.execute(sql, (*limits, *ids))


@dataclass(frozen=True)
class _Found:
    fingerprint: str
    owner: str
    expires: float
    answer: KeptAnswer | None


def _found(row: Row) -> _Found:
    fingerprint, owner, expires, status, fields, body = cast("tuple[str, str, float, int | None, bytes, bytes]", row)
    answer = None if status is None else KeptAnswer(status, tuple(_decode_fields(fields)), body)
    return _Found(fingerprint, owner, expires, answer)


def _check_same(known: str, fingerprint: str) -> None:
    if known != fingerprint:
        raise IdempotencyMismatch("this Idempotency-Key was used for another request")


def _conflict() -> IdempotencyConflict:
    return IdempotencyConflict("a request with this Idempotency-Key is being answered", retry_after=1)


def _marks(ids: Sequence[object]) -> str:
    return ", ".join("?" * len(ids))


# Base64 within JSON: a field may have bytes that are no text.
_decode_fields = msgspec.json.Decoder(list[tuple[bytes, bytes]]).decode
_EXPIRED = "expires <= ? AND (status IS NOT NULL OR expires <= ?)"
_FIND = "SELECT fingerprint, owner, expires, status, fields, body FROM idempotency_keys WHERE id = ?"
_INSERT = "INSERT INTO idempotency_keys (id, fingerprint, owner, expires) VALUES (?, ?, ?, ?)"
_KEEP = (
    "UPDATE idempotency_keys SET status = ?, fields = ?, body = ?, expires = ?"
    " WHERE id = ? AND owner = ? AND status IS NULL"
)
_REMOVE_EXPIRED = "DELETE FROM idempotency_keys WHERE id = ? AND expires <= ? AND status IS NOT NULL"
_REMOVE_CLAIM = "DELETE FROM idempotency_keys WHERE id = ? AND owner = ? AND status IS NULL"
