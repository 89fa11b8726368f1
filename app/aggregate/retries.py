"""Whether a call is made again, and when: decisions only, without clock or I/O."""

from __future__ import annotations

_LEAST_SECONDS = 0.1
_MOST_SECONDS = 5.0
# Of these another try may have another outcome (RFC 9110 15.5.9, 15.6; RFC 6585 4).
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))


def may_pass(status: int) -> bool:
    """Whether the same call may be answered otherwise a little later."""
    return status in _PASSING


def backoff(retry: int, jitter: float, retry_after: float | None = None) -> float:
    """Seconds to wait before the retry of this number, from 1: a random part of a ceiling that doubles ("full jitter",
    so that many who failed at once do not come again at once), but no less than the other side has asked for.

    jitter: from 0 to 1.
    """
    ceiling = min(_MOST_SECONDS, _LEAST_SECONDS * 2.0 ** min(retry - 1, 32))
    return max(ceiling * jitter, retry_after or 0.0)


class RetryBudget:
    """Second calls, whether retries or hedges, as a share of the first ones, so that they do not multiply the load on
    who fails because of its load.

    Bound: ``share`` of the first calls, and ``most`` at once beyond that. When it is used up, there are none.
    """

    def __init__(self, share: float = 0.2, most: float = 10.0) -> None:
        self._share = share
        self._most = most
        self._left = most

    def earn(self) -> None:
        """A first call is made."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Whether a second one may be."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
