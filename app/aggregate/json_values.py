"""The value of a source, cut out of its answer: JSON stays as it is written, to the digit."""

from __future__ import annotations

import msgspec

from app.config.json_path import JsonPath

_ANY = msgspec.json.Decoder(msgspec.Raw)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


class NotJson(ValueError):
    """It is no JSON in UTF-8, or too deep."""


class NoMatch(LookupError):
    """There is nothing at that path."""


def json_value(body: bytes | bytearray, path: JsonPath | None) -> bytes:
    """What ``path`` leads to in ``body``, all of it without one; in one line. *Errors*: NotJson, NoMatch."""
    try:
        if not body.isascii():
            body.decode()
        found = bytes(_ANY.decode(body))
        for step in () if path is None else path.steps:
            found = _member(found, step)
        if b"\n" in found or b"\r" in found:  # between values only, for within a string they cannot be
            found = msgspec.json.format(found, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson from error
    return found


def _member(raw: bytes, step: str | int) -> bytes:
    try:
        # Of two members of one name the last one counts, as everywhere.
        return bytes(_OBJECT.decode(raw)[step] if isinstance(step, str) else _ARRAY.decode(raw)[step])
    except (msgspec.ValidationError, LookupError) as error:
        raise NoMatch(step) from error
