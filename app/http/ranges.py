"""Byte ranges (RFC 9110 14): one range is served, several are answered with the whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPEC = re.compile(r"(?P<first>[0-9]+)-(?P<last>[0-9]*)|-(?P<suffix>[0-9]+)")


@dataclass(frozen=True)
class Whole:
    """The whole representation: no range asked for, or one that is to be ignored."""


@dataclass(frozen=True)
class Part:
    """Bytes ``start`` up to but not including ``stop`` of ``size``; never empty."""

    start: int
    stop: int
    size: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


@dataclass(frozen=True)
class Unsatisfiable:
    """A valid range that no byte of the representation falls into."""

    size: int

    @property
    def content_range(self) -> str:
        return f"bytes */{self.size}"


type Selection = Whole | Part | Unsatisfiable


def select(field: str | None, size: int) -> Selection:
    """What a ``Range`` field value selects of a representation of ``size`` bytes.

    An unknown unit, a malformed value and several ranges are ignored, as RFC 9110 14.2 allows. A suffix of an empty
    representation selects all of it, which ``Content-Range`` cannot say: the whole is sent.
    """
    spec = None if field is None else _only_spec(field)
    if spec is None:
        return Whole()
    if spec["suffix"] is not None:
        length = _number(spec["suffix"])
        if length == 0:
            return Unsatisfiable(size)
        return Part(max(0, size - length), size, size) if size else Whole()
    first = _number(spec["first"])
    last = _number(spec["last"]) if spec["last"] else None
    if last is not None and last < first:
        return Whole()
    if first >= size:
        return Unsatisfiable(size)
    return Part(first, size if last is None else min(last + 1, size), size)


def _only_spec(field: str) -> re.Match[str] | None:
    unit, _, ranges = field.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    # Empty list elements are allowed, and ignored (RFC 9110 5.6.1.2).
    specs = [spec for element in ranges.split(",") if (spec := element.strip(" \t"))]
    return _SPEC.fullmatch(specs[0]) if len(specs) == 1 else None


def _number(digits: str) -> int:
    # Python refuses to convert more than 4300 digits; a file has fewer bytes than 10**18 anyway.
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 18 else 10**18
