"""``Sluice-Deadline: SECONDS``, how long a client is willing to wait for the whole of its answer; and its like, for the
parts of that time."""

from __future__ import annotations

import re
import sys

from app.errors import BadDeadline

_DECIMAL = re.compile(rb"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")


def parse_deadline(field: bytes | None, name: str = "Sluice-Deadline") -> float | None:
    """Seconds, or None where the client names none.

    Errors: BadDeadline unless the value is a finite decimal above 0.
    """
    if field is None:
        return None
    text = field.strip()
    # A number that is too large for a float is a finite decimal all the same.
    seconds = min(float(text), sys.float_info.max) if _DECIMAL.fullmatch(text) else 0.0
    if seconds <= 0.0:
        shown = text[:40].decode("latin-1")
        raise BadDeadline(f"{name}: {shown!r} is not a number of seconds above 0, such as 2.5")
    return seconds
