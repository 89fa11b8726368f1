"""A path into JSON, such as ``data.items[0].name``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_STEP = re.compile(r'(?:\.|^)([^.\[\]"\s]+)|\[(-?[0-9]{1,9})\]|\[("(?:[^"\\]|\\.)*")\]')


@dataclass(frozen=True, repr=False)
class JsonPath:
    """steps: names of members, and places in arrays, which count from the end where they are negative."""

    text: str
    steps: tuple[str | int, ...]

    def __repr__(self) -> str:
        return repr(self.text)


def parse_json_path(text: str) -> JsonPath:
    """``name``, ``.name``, ``[place]`` and ``["any name"]`` in a row; a ``$`` before them stands for the whole.

    *Errors*: ValueError where it is none, or has no step.
    """
    rest = text.removeprefix("$")
    position = 0
    steps: list[str | int] = []
    while position < len(rest):
        found = _STEP.match(rest, position)
        if found is None or (position == 0 and rest != text and found[0][0] not in ".["):
            raise ValueError(text)
        name, place, quoted = found.groups()
        steps.append(name if name is not None else int(place) if place is not None else json.loads(quoted))
        position = found.end()
    if not steps:
        raise ValueError(text)
    return JsonPath(text, tuple(steps))
