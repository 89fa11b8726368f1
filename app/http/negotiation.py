"""Which of several media types a client wants (RFC 9110 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]++"
_WEIGHT = re.compile(r"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_RANGE = re.compile(rf"({_WORD})/({_WORD})")


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """The one of ``offered`` with the highest weight in ``accept``; of several the one that is named the most exactly,
    then the first one.

    Where nothing is acceptable it is the first one too: an answer that a client can refuse serves it better than none.
    offered: media types without parameters, in lower case. A range that is malformed counts as not given.
    """
    ranges = [found for element in (accept or "").split(",") if (found := _range(element)) is not None]
    best, chosen = (0.0, 0), offered[0]
    for media_type in offered:
        rank = max((match for one in ranges if (match := _exactness(one, media_type))), default=(0, 0.0))
        exactness, weight = rank
        if weight > 0 and (weight, exactness) > best:
            best, chosen = (weight, exactness), media_type
    return chosen


def _range(element: str) -> tuple[str, str, float] | None:
    essence, *parameters = (part.strip(" \t") for part in element.split(";"))
    found = _RANGE.fullmatch(essence.lower())
    if found is None:
        return None
    weights = [_WEIGHT.fullmatch(parameter) for parameter in parameters if _is_weight(parameter)]
    if None in weights:
        return None
    return found[1], found[2], float(weights[-1][1]) if weights and weights[-1] else 1.0


def _is_weight(parameter: str) -> bool:
    """Whether it is meant as one."""
    return parameter.partition("=")[0].rstrip(" \t") in {"q", "Q"}


def _exactness(one: tuple[str, str, float], media_type: str) -> tuple[int, float] | None:
    """How exactly a range names ``media_type``, and the weight that it gives to it; None where it does not."""
    kind, subtype, weight = one
    if (kind, subtype) == ("*", "*"):
        return 1, weight
    if f"{kind}/{subtype}" == media_type:
        return 3, weight
    if subtype == "*" and media_type.startswith(f"{kind}/"):
        return 2, weight
    return None
