"""The views of the TOML file: ``[aggregate.VIEW]`` and ``[aggregate.VIEW.sources.NAME]``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from app.config.json_path import JsonPath, parse_json_path
from app.config.tables import Mistakes, Table
from app.config.url_template import UrlTemplate, parse_url_template

IDEMPOTENT = frozenset(("GET", "PUT", "DELETE"))

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_VIEW_KEYS = ("deadline", "single_flight", "sources")
_SOURCE_KEYS = (
    "url",
    "method",
    "headers",
    "required",
    "timeout",
    "retries",
    "hedge_after",
    "breaker",
    "stale_if_error",
    "fallback",
    "max_bytes",
    "select",
    "allow_private",
)
_BREAKER_KEYS = ("failures", "window", "reset", "statuses")
_MOST_SOURCES = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FIELD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NO_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_STATUS = re.compile(r"[45](?:xx|[0-9]{2})")
_NOWHERE = parse_url_template("http://nowhere.invalid/")  # stands in for an address that is a mistake
# What each call says for itself, or what would change where its message ends.
_OURS = frozenset(
    (
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "sluice-deadline",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    )
)


@dataclass(frozen=True)
class BreakerSettings:
    """After so many ``failures`` within ``window`` seconds there are no calls for ``reset`` seconds; then one tries.

    statuses: those that are failures, such as ``503`` or ``5xx``.
    """

    failures: int = 5
    window: float = 10.0
    reset: float = 5.0
    statuses: tuple[str, ...] = ("5xx",)

    def counts(self, status: int) -> bool:
        return str(status) in self.statuses or f"{status // 100}xx" in self.statuses


@dataclass(frozen=True)
class Header:
    """Of a request to an upstream. Its value may be a secret."""

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class SourceSettings:
    """Where a part of a view comes from.

    timeout: seconds that one call may take; None: as long as the view. hedge_after: seconds after which a second call
    is made, and the first answer counts; None: never. stale_if_error: seconds for which the last value stands in; 0:
    never. fallback: JSON that stands in otherwise. select: what of the answer is the value; None: all of it.
    """

    name: str
    url: UrlTemplate
    method: str = "GET"
    headers: tuple[Header, ...] = ()
    required: bool = False
    timeout: float | None = None
    retries: int = 0
    hedge_after: float | None = None
    breaker: BreakerSettings | None = None
    stale_if_error: float = 0.0
    fallback: bytes | None = None
    max_bytes: int = 1024 * 1024
    select: JsonPath | None = None
    allow_private: bool = False


@dataclass(frozen=True)
class ViewSettings:
    """deadline: seconds for all of its sources. single_flight: requests that are the same share their calls."""

    name: str
    deadline: float
    single_flight: bool
    sources: tuple[SourceSettings, ...]


@dataclass(frozen=True)
class AggregateSettings:
    """The views that may be asked for; there are no others."""

    views: tuple[ViewSettings, ...] = ()


def read_aggregate(content: object, environment: Mapping[str, str], mistakes: Mistakes) -> AggregateSettings:
    """``content``: the table ``aggregate``. environment: for ``${NAME}`` in values of header fields."""
    tables = Table("aggregate", content, mistakes)
    return AggregateSettings(tuple(_view(name, tables, environment) for name in _names(tables, "view")))


def _names(tables: Table, what: str) -> list[str]:
    names = list(tables)
    for name in names:
        if not _NAME.fullmatch(name):
            tables.tell(name, f"is no name of a {what}: 1 to 64 letters, digits, _ and -")
    return names


def _view(name: str, tables: Table, environment: Mapping[str, str]) -> ViewSettings:
    table = tables.table(name, _VIEW_KEYS)
    sources = table.table("sources")
    names = _names(sources, "source")
    if not 1 <= len(names) <= _MOST_SOURCES:
        table.tell("sources", f"has {len(names)}; 1 to {_MOST_SOURCES} are allowed")
    return ViewSettings(
        name,
        deadline=table.seconds("deadline", 10.0),
        single_flight=table.flag("single_flight"),
        sources=tuple(_Source(sources.table(each, _SOURCE_KEYS), each, environment).settings() for each in names),
    )


class _Source:
    def __init__(self, table: Table, name: str, environment: Mapping[str, str]) -> None:
        self._table, self._name, self._environment = table, name, environment

    def settings(self) -> SourceSettings:
        table = self._table
        method = self._method()
        url = self._url()
        read = SourceSettings(
            self._name,
            url or _NOWHERE,
            method,
            headers=self._headers(),
            required=table.flag("required"),
            timeout=table.seconds("timeout", None),
            retries=table.whole("retries", 0, 0, 10),
            hedge_after=table.seconds("hedge_after", None),
            breaker=self._breaker(),
            stale_if_error=table.seconds("stale_if_error", 0.0),
            fallback=self._fallback(),
            max_bytes=table.size("max_bytes", 1024 * 1024, 1, 64 * 1024**2),
            select=self._parsed("select", parse_json_path, "a path into JSON, such as 'data.items[0].name'"),
            allow_private=table.flag("allow_private"),
        )
        if method not in IDEMPOTENT:
            for key, said in (("retries", read.retries), ("hedge_after", read.hedge_after)):
                if said:
                    table.tell(key, f"is not allowed with {method}: a call that is made twice may do twice as much")
        return read

    def _method(self) -> str:
        method = self._table.text("method", " or ".join(_METHODS)) or "GET"
        if method not in _METHODS:
            self._table.refuse("method", " or ".join(_METHODS))
        return method

    def _url(self) -> UrlTemplate | None:
        """What is wrong with it is told without it: there may be a password in it, or a key."""
        if "url" not in self._table:
            self._table.tell("url", "is needed")
            return None
        text, allowed = self._table.value("url"), "an address of HTTP, such as 'https://example.com/users/{id}'"
        try:
            if isinstance(text, str):
                return parse_url_template(text)
        except ValueError as error:
            allowed = f"{allowed}: {error}"
        self._table.tell("url", f"its value is not allowed: {allowed}")
        return None

    def _parsed[T](self, key: str, parse: Callable[[str], T], allowed: str) -> T | None:
        text = self._table.text(key, allowed)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            words = str(error)
            self._table.refuse(key, allowed if words == text or not words else f"{allowed}: {words}")
            return None

    def _headers(self) -> tuple[Header, ...]:
        """What is wrong with a value is told without it: it may be a secret."""
        table = self._table.table("headers")
        found: list[Header] = []
        written: dict[str, str] = {}
        for name in table:
            value = table.value(name)
            before = written.setdefault(name.lower(), name)
            if not _FIELD.fullmatch(name) or name.lower() in _OURS:
                table.tell(name, "is not allowed: a header field that Sluice does not send itself")
            elif before != name:
                table.tell(name, f"is there already, as {before}")
            elif not isinstance(value, str):
                table.tell(name, "its value is not allowed: a text")
            elif (filled := self._filled(table, name, value)) is not None:
                found.append(Header(name.lower(), filled))
        return tuple(found)

    def _filled(self, table: Table, name: str, value: str) -> str | None:
        """``value`` with its variables."""
        missing = [each for each in _VARIABLE.findall(value) if not self._environment.get(each)]
        for each in missing:
            table.tell(name, f"${{{each}}}: there is no such variable in the environment")
        if missing:
            return None
        filled = _VARIABLE.sub(lambda found: self._environment[found[1]], value).strip(" \t")
        if "${" in _VARIABLE.sub("", value):
            table.tell(name, "a ${ without its }")
        elif _NO_VALUE.search(filled):
            table.tell(name, "its value is not allowed: one line of Latin-1")
        else:
            return filled
        return None

    def _breaker(self) -> BreakerSettings | None:
        if "breaker" not in self._table:
            return None
        table, usual = self._table.table("breaker", _BREAKER_KEYS), BreakerSettings()
        return BreakerSettings(
            failures=table.whole("failures", usual.failures, 1, 10_000),
            window=table.seconds("window", usual.window),
            reset=table.seconds("reset", usual.reset),
            statuses=self._statuses(table) or usual.statuses,
        )

    def _statuses(self, table: Table) -> tuple[str, ...]:
        if "statuses" not in table:
            return ()
        given = table.value("statuses")
        statuses = [str(each) for each in cast("list[object]", given)] if isinstance(given, list) else []
        if statuses and all(map(_STATUS.fullmatch, statuses)):
            return tuple(statuses)
        table.refuse("statuses", 'a list of statuses from 400 to 599, such as [429, "5xx"]')
        return ()

    def _fallback(self) -> bytes | None:
        if "fallback" not in self._table:
            return None
        value: Any = self._table.value("fallback")
        if _is_endless(value):
            self._table.tell("fallback", "its value is not allowed: JSON has no nan and no inf")
            return None
        return msgspec.json.encode(value)


def _is_endless(value: Any) -> bool:
    """Whether there is a number in it that JSON cannot say."""
    match value:
        case float():
            return not math.isfinite(value)
        case list():
            return any(map(_is_endless, cast("list[Any]", value)))
        case dict():
            return any(map(_is_endless, cast("dict[str, Any]", value).values()))
        case _:
            return False
