"""A table of the TOML file, read key by key: mistakes are collected rather than raised."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from app.config.quantities import MOST_SECONDS, parse_bytes, parse_seconds


class Mistakes:
    """What is wrong with a file, a line each: the file, the key, and what is allowed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.lines: list[str] = []

    def tell(self, key: str, words: str) -> None:
        self.lines.append(f"{self._path}: {key}: {words}")

    def refuse(self, key: str, value: object, allowed: str) -> None:
        self.tell(key, f"{value!r} is not allowed: {allowed}")

    def refuse_unknown(self, given: Iterable[str], known: Iterable[str], where: str) -> None:
        """where: the table's name and a dot; empty for the file itself."""
        for name in sorted(set(given) - set(known)):
            nearest = difflib.get_close_matches(name, known, n=1)
            told = f"did you mean {where}{nearest[0]}?" if nearest else f"known: {', '.join(known)}"
            self.tell(f"{where}{name if name.isprintable() else repr(name)}", f"is not known; {told}")


class Table:
    """``content`` as a table called ``name``; where it is none, that is a mistake, and the table is empty. What it is
    instead is not told: there may be secrets in it.

    Each reader gives ``default`` where the key is missing, and where its value is a mistake. keys: those that it may
    have; None: any.
    """

    def __init__(self, name: str, content: object, mistakes: Mistakes, keys: Iterable[str] | None = None) -> None:
        self.name = name
        self.mistakes = mistakes
        self._content: dict[str, Any] = {}
        if isinstance(content, dict):
            self._content = cast("dict[str, Any]", content)
        else:
            mistakes.tell(name, f"its value is not allowed: a table, [{name}]")
        if keys is not None:
            mistakes.refuse_unknown(self._content, keys, f"{name}.")

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def value(self, key: str) -> object:
        return cast("object", self._content[key])

    def path(self, key: str) -> str:
        return f"{self.name}.{key}"

    def table(self, key: str, keys: Iterable[str] | None = None) -> Table:
        """The table within this one; empty where there is none."""
        return Table(self.path(key), self._content.get(key, {}), self.mistakes, keys)

    def text(self, key: str, allowed: str) -> str | None:
        """None where it is missing, or is no text."""
        value = self._content.get(key)
        if value is None or isinstance(value, str):
            return value
        self.refuse(key, allowed)
        return None

    def texts(self, key: str, allowed: Callable[[str], bool], such: str) -> tuple[str, ...]:
        """Empty where it is missing. such: what the texts are, and an example."""
        value = self._content.get(key, [])
        texts = cast("list[object]", value) if isinstance(value, list) else [None]
        if all(isinstance(text, str) and allowed(text) for text in texts):
            return tuple(map(str, texts))
        return self._instead(key, f"a list of {such}", ())

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self._content.get(key, default)
        return value if isinstance(value, bool) else self._instead(key, "true or false", default)

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        value = self._content.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        return self._instead(key, f"a whole number from {least} to {most}", default)

    def size(self, key: str, default: int, least: int, most: int) -> int:
        """Bytes: a whole number, or a text with a unit."""
        value = self._content.get(key, default)
        size = parse_bytes(value) if isinstance(value, str) else value
        if isinstance(size, int) and not isinstance(size, bool) and least <= size <= most:
            return size
        return self._instead(key, f"a size of {least} to {most} bytes, such as 65536 or '64KiB'", default)

    def seconds[T: float | None](self, key: str, default: T) -> float | T:
        """Above 0: a number, or a text with a unit."""
        if key not in self._content:
            return default
        value = self._content[key]
        seconds = parse_seconds(value) if isinstance(value, str) else value
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and _is_time(seconds):
            return float(seconds)
        return self._instead(key, "a time above 0, such as 2, 0.5, '500ms' or '2min'", default)

    def refuse(self, key: str, allowed: str) -> None:
        self.mistakes.refuse(self.path(key), self._content.get(key), allowed)

    def tell(self, key: str, words: str) -> None:
        self.mistakes.tell(self.path(key), words)

    def _instead[T](self, key: str, allowed: str, default: T) -> T:
        self.refuse(key, allowed)
        return default


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and 0 < seconds <= MOST_SECONDS
