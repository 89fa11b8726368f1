"""What ``where`` asks of a record: ``FIELD OP VALUE``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
import re2

from app.transforms.arguments import encodable, json_string
from app.transforms.step import BadArguments

_PREDICATE = re.compile(r'("(?:[^"\\]|\\.)*+"|[^"].*?) *(==|!=|<=|>=|<|>|~) *(.*?) *', re.DOTALL)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# As in JSON. A longer exponent than Decimal knows makes it a text.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,17})?")
_SHORT_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_SHORT = 15  # so many digits are told apart, and put in order, by floats

_re2: Any = re2  # it has no types

type Test = Callable[[str], bool]


@dataclass(frozen=True)
class Predicate:
    """A test of one field. A record that lacks the field does not pass, whatever the operator.

    ``~`` searches for a regular expression (RE2: no backreferences, time linear in the text). The others compare as
    numbers, exactly, where ``value`` is a JSON number; a field that is none, nor a text that is one, equals no number,
    and is neither less nor more. Else they compare as texts, by code points, what is not a string by its JSON text.
    is_text: ``value`` was quoted, and is no number.
    """

    field: str
    operator: str
    value: str
    is_text: bool = False

    def test(self) -> Callable[[msgspec.Raw], bool]:
        """The test of the field's value."""
        return _test(self)


def parse_predicate(arguments: str | None) -> Predicate:
    """The predicate that ``FIELD OP VALUE`` is; FIELD and VALUE may be JSON strings. *Errors*: BadArguments."""
    match = _PREDICATE.fullmatch(encodable(arguments or "").lstrip(" "))
    if match is None:
        raise BadArguments(f"{arguments or ''!r} is not FIELD OP VALUE, with OP one of == != < <= > >= ~")
    field, sign, value = match.groups()
    is_text = value.startswith('"')
    predicate = Predicate(
        json_string(field) if field.startswith('"') else field, sign, json_string(value) if is_text else value, is_text
    )
    predicate.test()
    return predicate


@lru_cache(maxsize=64)
def _test(predicate: Predicate) -> Callable[[msgspec.Raw], bool]:
    if predicate.operator == "~":
        test = _search(predicate.value)
    elif predicate.is_text or _NUMBER.fullmatch(predicate.value) is None:
        test = _compared_as_text(_COMPARISONS[predicate.operator], predicate.value)
    else:
        test = _compared_as_number(_COMPARISONS[predicate.operator], predicate.value)
    return lambda raw: test(text_of(raw))


def text_of(raw: msgspec.Raw) -> str:
    """A JSON string's text, and any other value's JSON text."""
    text = str(raw, "utf-8")
    if not text.startswith('"'):
        return text
    return msgspec.json.decode(raw, type=str) if "\\" in text else text[1:-1]


def _compared_as_text(compare: Callable[[Any, Any], bool], value: str) -> Test:
    return lambda text: compare(text, value)


def _compared_as_number(compare: Callable[[Any, Any], bool], value: str) -> Test:
    exact = Decimal(value)
    rounded = float(value) if len(value) <= _SHORT and _SHORT_NUMBER.fullmatch(value) else None

    def test(text: str) -> bool:
        if rounded is not None and len(text) <= _SHORT and _SHORT_NUMBER.fullmatch(text):
            return compare(float(text), rounded)
        if _NUMBER.fullmatch(text):
            return compare(Decimal(text), exact)
        return compare is operator.ne

    return test


def _search(pattern: str) -> Test:
    options: Any = _re2.Options()
    options.log_errors, options.never_capture = False, True
    try:
        search: Callable[[bytes], object] = _re2.compile(pattern.encode(), options).search
    except _re2.error as error:
        reason = b" ".join(error.args).decode("utf-8", "replace")
        raise BadArguments(f"{pattern!r} is not a regular expression of RE2: {reason}") from None
    return lambda text: search(text.encode()) is not None
