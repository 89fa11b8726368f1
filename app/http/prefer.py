"""``Prefer``: an answer now or later (RFC 7240), as ``respond-async`` and ``wait=SECONDS``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]++"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\uffff]|\\[\t \x21-\x7e\x80-\uffff])*+"'
_PAIR = rf"{_WORD}(?:[ \t]*+=[ \t]*+(?:{_WORD}|{_QUOTED})?)?"
_PREFERENCE = re.compile(
    rf"[ \t]*+({_WORD})(?:[ \t]*+=[ \t]*+({_WORD}|{_QUOTED})?)?(?:[ \t]*+;(?:[ \t]*+{_PAIR})?)*+[ \t]*+"
)
# Up to the next comma that is not within quotation marks; what is opened and never closed takes all.
_ELEMENT = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\[\s\S])*+(?:"|\\?\Z))*+')
_ESCAPE = re.compile(r"\\(.)")
_LONGEST = 4096
_SECONDS = re.compile(r"[0-9]{1,9}")
_DIGITS = re.compile(r"[0-9]++")


@dataclass(frozen=True)
class Preferences:
    """respond_async: an answer that says where the result will be is welcome. wait: seconds that the client will wait
    for the result itself."""

    respond_async: bool = False
    wait: float | None = None


def parse_prefer(field: str | None) -> Preferences:
    """What ``field`` prefers; several fields are joined by commas.

    Nothing in it is an error (RFC 7240 2): what is malformed, or not known here, counts as not given, and so does all
    of what is longer than `_LONGEST`. Of a preference that is given several times the first one counts, even where its
    value is none.
    """
    given: dict[str, str] = {}
    for name, value in _preferences(field if field and len(field) <= _LONGEST else ""):
        given.setdefault(name, value)
    wait = given.get("wait", "")
    return Preferences(given.get("respond-async") == "", _seconds(wait) if _DIGITS.fullmatch(wait) else None)


def preference_applied(applied: Preferences) -> str | None:
    """The value of ``Preference-Applied`` (RFC 7240 3) for what was done; None where that is nothing."""
    words = ["respond-async"] * applied.respond_async
    if applied.wait is not None:
        words.append(f"wait={applied.wait:.0f}")
    return ", ".join(words) or None


def _preferences(field: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(field):
        element = cast("re.Match[str]", _ELEMENT.match(field, at))
        if found := _PREFERENCE.fullmatch(field, at, element.end()):
            yield found[1].lower(), _unquoted(found[2] or "")
        at = element.end() + 1


def _unquoted(word: str) -> str:
    return _ESCAPE.sub(r"\1", word[1:-1]) if word.startswith('"') else word


def _seconds(digits: str) -> float:
    # A number that is too large for us is a long wait all the same.
    return float(digits) if _SECONDS.fullmatch(digits) else float(10**9)
