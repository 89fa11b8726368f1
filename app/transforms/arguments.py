"""What stands behind the colon of a step, parsed. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from app.transforms.step import BadArguments, Transformer

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,18}")
_NAMES = "a name that holds one of , = : or quotes is written as a JSON string"


def without_arguments(make: Callable[[], Transformer]) -> Callable[[str | None], Transformer]:
    """The ``make`` of a step that takes no arguments. *Errors*: BadArguments, from what is returned."""

    def checked(arguments: str | None) -> Transformer:
        if arguments is not None:
            raise BadArguments(f"{arguments!r}: this step takes no arguments")
        return make()

    return checked


def field_names(arguments: str | None) -> list[str]:
    """The names in ``A,B,…``, each once. *Errors*: BadArguments."""
    names: list[str] = []
    rest = "," + (arguments or "")
    while rest:
        name, rest = field_name(_behind(",", rest), ",")
        names.append(name)
    _check_each_once(names)
    return names


def renamed_fields(arguments: str | None) -> dict[str, str]:
    """The new names by the old ones, from ``OLD=NEW,…``; both each once. *Errors*: BadArguments."""
    names: list[tuple[str, str]] = []
    rest = "," + (arguments or "")
    while rest:
        old, rest = field_name(_behind(",", rest), ",=")
        new, rest = field_name(_behind("=", rest), ",=")
        names.append((old, new))
    _check_each_once([old for old, _ in names])
    _check_each_once([new for _, new in names])
    return dict(names)


def field_name(text: str, stops: str) -> tuple[str, str]:
    """The name that ``text`` starts with, up to one of ``stops`` unless it is a JSON string, and what is behind it.

    *Errors*: BadArguments.
    """
    if text.startswith('"'):
        string = _STRING.match(text)
        if string is None:
            raise BadArguments(f"{text!r}: the quotes do not end; {_NAMES}")
        return json_string(string[0]), text[string.end() :]
    end = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
    if end == 0:
        raise BadArguments(f"the name of a field is missing; {_NAMES}")
    return encodable(text[:end]), text[end:]


def json_string(text: str) -> str:
    """The string that ``text`` is in JSON. *Errors*: BadArguments."""
    try:
        return msgspec.json.decode(encodable(text), type=str)
    except msgspec.DecodeError:
        raise BadArguments(f"{text} starts like a JSON string, and is none") from None


def whole_number(text: str | None, least: int, most: int) -> int:
    """The number that ``text`` is. *Errors*: BadArguments."""
    if text is None or _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
        raise BadArguments(f"{text or ''!r} is not a whole number from {least} to {most}")
    return int(text)


def encodable(text: str) -> str:
    """``text``, if it can be written in UTF-8. *Errors*: BadArguments."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadArguments(f"{text!r} is not UTF-8") from None
    return text


def _behind(sign: str, text: str) -> str:
    if not text.startswith(sign):
        raise BadArguments(f"{text!r} stands where {sign!r} belongs; {_NAMES}")
    return text[len(sign) :]


def _check_each_once(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadArguments(f"the field {name!r} is named twice")
        seen.add(name)
