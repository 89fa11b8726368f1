"""``Retry-After`` (RFC 9110 10.2.3)."""

from __future__ import annotations

from app.http.dates import parse_date

_MOST_DIGITS = 9


def parse_retry_after(field: str, now: float) -> float | None:
    """Seconds from ``now``, which is counted from the epoch; None where ``field`` is neither seconds nor a date."""
    text = field.strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MOST_DIGITS]) if len(text) <= _MOST_DIGITS else float(10**_MOST_DIGITS)
    date = parse_date(text)
    return None if date is None else max(0.0, date - now)
