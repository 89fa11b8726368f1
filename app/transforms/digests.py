"""The step ``sha256``: what passes, digested. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from app.transforms.arguments import without_arguments
from app.transforms.pieces import cut
from app.transforms.step import Kind, Step


class Sha256:
    """Passes what comes, and digests it by SHA-256 (FIPS 180-4).

    digest: None until the stream has ended.
    """

    done = False

    def __init__(self) -> None:
        self.digest: bytes | None = None
        self._hash = hashlib.sha256()

    def feed(self, piece: bytes) -> Iterable[bytes]:
        for part in cut(piece):
            self._hash.update(part)
            yield part

    def finish(self) -> Iterable[bytes]:
        self.digest = self._hash.digest()
        return ()


STEPS: tuple[Step, ...] = (
    Step(
        name="sha256",
        arguments="",
        meaning="what goes in, with its SHA-256 digest",
        takes=frozenset(Kind),
        gives=None,
        memory="one piece",
        # Digesting a piece takes about as long as handing it to a thread and back.
        place="loop",
        make=without_arguments(Sha256),
    ),
)
