"""Times and sizes as people write them: a number with an optional unit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

# A year: what is longer is a mistake, and at some length no clock can count it.
MOST_SECONDS = 365 * 24 * 3600

_DURATIONS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {"": 1.0, "B": 1.0} | {f"{prefix}iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)}
_QUANTITY = re.compile(r"\s*(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[A-Za-z]*)\s*")


def parse_bytes(text: str) -> int | None:
    """Bytes, from a number with an optional unit (``B KiB MiB GiB TiB``); None where it is no such thing."""
    size = parse_quantity(text, _BYTES)
    return None if size is None else int(size)


def parse_seconds(text: str) -> float | None:
    """Seconds, likewise (``ms s min h``)."""
    return parse_quantity(text, _DURATIONS)


def parse_quantity(text: str, units: Mapping[str, float]) -> float | None:
    """A number of the unit whose value is 1; None where ``text`` is none, or is not finite."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match["unit"] not in units:
        return None
    value = float(match["number"]) * units[match["unit"]]
    return value if math.isfinite(value) else None
