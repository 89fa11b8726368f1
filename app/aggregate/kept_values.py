"""The last value of each source, for the time when it fails."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MOST = 1000
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class KeptStatistics:
    """bytes: of the values and of what they are kept under."""

    count: int
    bytes: int


class KeptValues:
    """Values by view, source and address.

    Bound: ``most`` of them, with ``most_bytes`` together. When full, those that were kept first go first.
    """

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def keep(self, key: str, value: bytes, now: float) -> None:
        """One that is too large leaves no earlier one in its place."""
        self.drop(key)
        if len(key) + len(value) > self._most_bytes:
            return
        self._kept[key] = (value, now)
        self._bytes += len(key) + len(value)
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self.drop(next(iter(self._kept)))

    def find(self, key: str, now: float, seconds: float) -> bytes | None:
        """None where there is none that is younger than ``seconds``."""
        value, kept = self._kept.get(key, (None, now))
        return value if now - kept < seconds else None

    def drop(self, key: str) -> None:
        value, _ = self._kept.pop(key, (None, 0.0))
        if value is not None:
            self._bytes -= len(key) + len(value)

    def statistics(self) -> KeptStatistics:
        return KeptStatistics(len(self._kept), self._bytes)
