"""The query of a request's target, as HTML forms write it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from app.errors import BadRequest

_MOST_PARAMETERS = 1000

type Query = Mapping[str, list[str]]


def parse_query(raw: bytes) -> Query:
    """The values of each parameter, in order, percent-decoded; what is no UTF-8 is replaced.

    *Errors*: BadRequest past `_MOST_PARAMETERS`.
    """
    if not raw:
        return {}
    try:
        return parse_qs(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise BadRequest(f"the query has more than {_MOST_PARAMETERS} parameters") from error


def only(query: Query, name: str) -> str | None:
    """The value of a parameter that may be given once. *Errors*: BadRequest where it is given more often."""
    values = query.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise BadRequest(f"{name}: may be given once")
    return values[0]


def whole_number(query: Query, name: str, least: int, most: int) -> int | None:
    """Likewise, of decimal digits. *Errors*: BadRequest also where it is none from ``least`` to ``most``."""
    text = only(query, name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise BadRequest(f"{name}: a whole number from {least} to {most} is allowed")
