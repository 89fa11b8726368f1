"""How many of a database's connections streams may hold: one that is read slowly holds its own for as long."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from app.errors import Overloaded

_RETRY_SECONDS = 1.0


class StreamPlaces:
    """Places for streams among ``connections``, so that slow readers leave some to everybody else.

    Bound: half of the connections, at least one; whoever comes past them is refused at once.
    """

    def __init__(self, connections: int) -> None:
        self.size = max(1, connections // 2)
        self.taken = 0

    @contextmanager
    def take(self) -> Generator[None]:
        """A place until the block ends. *Errors*: Overloaded."""
        if self.taken >= self.size:
            raise Overloaded(
                "as many are reading all rows as the database's connections allow",
                retry_after=_RETRY_SECONDS,
                internal=f"{self.size} streams",
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
