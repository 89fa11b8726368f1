"""Who has been silent for too long, as a decision without I/O."""

from __future__ import annotations

from collections.abc import Mapping


class Silences:
    """For how long others have shown no sign of life, by one observer's clock and its own looks.

    dead_seconds: the silence after which somebody is dead. most_seconds: what one look can add to a silence, however
    long ago the look before it was: an observer that was held up has not watched anybody meanwhile.

    Bound: one entry for each id of the last look.
    """

    def __init__(self, dead_seconds: float, most_seconds: float) -> None:
        self._dead_seconds = dead_seconds
        self._most_seconds = most_seconds
        self._looked: float | None = None
        self._beats: dict[str, int] = {}
        self._silent: dict[str, float] = {}

    def look(self, beats: Mapping[str, int], now: float) -> None:
        """What each shows now; its number changes with each sign of life."""
        passed = 0.0 if self._looked is None else min(now - self._looked, self._most_seconds)
        self._silent = {
            id: self._silent[id] + passed if self._beats.get(id) == beat else 0.0 for id, beat in beats.items()
        }
        self._beats = dict(beats)
        self._looked = now

    def miss(self) -> None:
        """Nobody can be seen. What kept us from it may have kept the others from their signs: all get their time."""
        self._looked = None
        self._beats.clear()

    def forget(self, id: str) -> None:
        """If it is seen again, it is new."""
        self._beats.pop(id, None)

    def dead(self) -> dict[str, int]:
        """Who is dead by the looks until now, each with what it showed last."""
        return {id: beat for id, beat in self._beats.items() if self._silent[id] >= self._dead_seconds}
