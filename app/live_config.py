"""The part ``[live]`` of the file that ``SLUICE_CONFIG`` names: topics, and what their subscribers may rely on."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

type Policy = Literal["drop-oldest", "coalesce", "disconnect", "block"]

_POLICIES = ("drop-oldest", "coalesce", "disconnect", "block")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s,;]+")
_MOST_ORIGINS = 100
# A buffer has room for any one event.
_LEAST_BUFFER_BYTES = 64 * 1024


@dataclass(frozen=True)
class TopicSettings:
    """One topic.

    policy: for subscribers that do not keep up. key: the member of an event's data by which ``coalesce`` tells what is
    the same. history_…: what is kept for those who come again. buffer_…: what may wait for one subscriber.
    max_subscribers: of one process. publish_by_websocket: whether who listens may also speak. source, steps: the topic
    that this one is derived from, and how.
    """

    policy: Policy = "drop-oldest"
    key: str | None = None
    history_events: int = 10_000
    history_bytes: int = 16 * 1024 * 1024
    history_seconds: float = 3600.0
    buffer_events: int = 1000
    buffer_bytes: int = 1024 * 1024
    max_subscribers: int = 5000
    publish_by_websocket: bool = False
    source: str | None = None
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class LiveSettings:
    """origins: of other sites' pages that may subscribe and publish; ``*``: of any. max_subscribers: of one process, to
    all topics. defaults: of topics that nothing is said of. topics: by name."""

    origins: tuple[str, ...] = ()
    max_subscribers: int = 8000
    defaults: TopicSettings = TopicSettings()
    topics: Mapping[str, TopicSettings] = field(default_factory=dict[str, TopicSettings])


def read_live(content: object) -> tuple[LiveSettings, list[str]]:
    """What the table says, and what is wrong with it: ``KEY: …`` lines."""
    reader = _Reader()
    settings = reader.live(content)
    return settings, reader.mistakes


_OF_ALL = ("policy", "history_events", "history_bytes", "history_seconds", "buffer_events", "buffer_bytes")
_OF_A_TOPIC = (*_OF_ALL, "max_subscribers", "key", "publish_by_websocket", "from", "steps")
_NUMBERS = {
    "history_events": (1, 10_000_000),
    "history_bytes": (1, 2**40),
    "buffer_events": (1, 100_000),
    "buffer_bytes": (_LEAST_BUFFER_BYTES, 2**30),
    "max_subscribers": (1, 1_000_000),
}


class _Reader:
    """One pass over the table: mistakes collected rather than raised."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def live(self, content: object) -> LiveSettings:
        table = self._table("live", content, ("origins", "max_subscribers", "topics", *_OF_ALL))
        defaults = self._topic("live", {key: table[key] for key in _OF_ALL if key in table}, TopicSettings())
        named = self._named(table.get("topics", {}))
        topics = {name: self._topic(f"live.topics.{name}", given, defaults) for name, given in named.items()}
        self._check_sources(topics)
        return LiveSettings(
            origins=self._texts(
                "live.origins", table.get("origins", []), _is_origin, 'such as ["https://example.org"]'
            ),
            max_subscribers=self._number("live.max_subscribers", table, LiveSettings.max_subscribers),
            defaults=defaults,
            topics=topics,
        )

    def _named(self, content: object) -> dict[str, dict[str, Any]]:
        if not isinstance(content, dict):
            self._refuse("live.topics", content, "tables, [live.topics.NAME]")
            return {}
        found: dict[str, dict[str, Any]] = {}
        for name, given in cast("dict[str, object]", content).items():
            if _TOPIC.fullmatch(name) is None or name in {".", ".."}:
                self._refuse("live.topics", name, "a name of 1 to 128 of A-Z a-z 0-9 . _ -")
            else:
                found[name] = self._table(f"live.topics.{name}", given, _OF_A_TOPIC)
        return found

    def _topic(self, where: str, table: dict[str, Any], defaults: TopicSettings) -> TopicSettings:
        source = self._text(f"{where}.from", table.get("from"))
        steps = self._texts(f"{where}.steps", table.get("steps", []), bool, 'such as ["select:ts,msg"]')
        topic = TopicSettings(
            policy=self._policy(f"{where}.policy", table.get("policy", defaults.policy)),
            key=self._text(f"{where}.key", table.get("key")),
            **{name: self._number(f"{where}.{name}", table, getattr(defaults, name)) for name in _NUMBERS},
            history_seconds=self._seconds(f"{where}.history_seconds", table, defaults.history_seconds),
            publish_by_websocket=self._flag(f"{where}.publish_by_websocket", table.get("publish_by_websocket", False)),
            source=source,
            steps=steps,
        )
        if topic.policy == "coalesce" and topic.key is None and where != "live":
            self.mistakes.append(f"{where}.key: is needed with the policy coalesce")
        if steps and source is None:
            self.mistakes.append(f"{where}.from: is needed with steps")
        return topic

    def _check_sources(self, topics: Mapping[str, TopicSettings]) -> None:
        for name in topics:
            seen = list(_sources(topics, name))
            if name in seen:
                self._refuse(f"live.topics.{name}.from", seen[0], "a topic that is not derived from this one")

    def _table(self, where: str, content: object, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(content, dict):
            self._refuse(where, content, f"a table, [{where}]")
            return {}
        table = cast("dict[str, Any]", content)
        for key in sorted(set(table) - set(known)):
            nearest = difflib.get_close_matches(key, known, n=1)
            told = f"did you mean {where}.{nearest[0]}?" if nearest else f"known: {', '.join(known)}"
            shown = key if key.isprintable() else repr(key)
            self.mistakes.append(f"{where}.{shown}: is not known; {told}")
        return table

    def _policy(self, where: str, value: object) -> Policy:
        if value in _POLICIES:
            return value
        return self._refuse(where, value, f"one of {', '.join(_POLICIES)}", "drop-oldest")

    def _text(self, where: str, value: object) -> str | None:
        if value is None or (isinstance(value, str) and value):
            return value
        return self._refuse(where, value, "a text")

    def _flag(self, where: str, value: object) -> bool:
        return value if isinstance(value, bool) else bool(self._refuse(where, value, "true or false"))

    def _number(self, where: str, table: Mapping[str, Any], default: int) -> int:
        name = where.rpartition(".")[2]
        value, (least, most) = table.get(name, default), _NUMBERS[name]
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        return self._refuse(where, value, f"a whole number from {least} to {most}", default)

    def _seconds(self, where: str, table: Mapping[str, Any], default: float) -> float:
        value: object = table.get("history_seconds", default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and math.isfinite(cast("float", value)) and 0 < cast("float", value) <= 366 * 24 * 3600:
            return float(cast("float", value))
        return self._refuse(where, value, "seconds above 0, a year at most", default)

    def _texts(self, where: str, value: object, allowed: Callable[[str], bool], such: str) -> tuple[str, ...]:
        texts = cast("list[object]", value) if isinstance(value, list) else [None]
        if len(texts) <= _MOST_ORIGINS and all(isinstance(text, str) and allowed(text) for text in texts):
            return tuple(map(str, texts))
        return self._refuse(where, cast("object", value), f"a list, {such}", ())

    def _refuse[T](self, where: str, value: object, allowed: str, stand_in: T = None) -> T:
        self.mistakes.append(f"{where}: {value!r} is not allowed: {allowed}")
        return stand_in


def _is_origin(text: str) -> bool:
    return _ORIGIN.fullmatch(text) is not None


def _sources(topics: Mapping[str, TopicSettings], name: str) -> Iterator[str]:
    """What ``name`` is derived from, the nearest first; it ends where one comes again."""
    seen: set[str] = set()
    source = topics[name].source
    while source is not None and source not in seen:
        seen.add(source)
        yield source
        source = topics[source].source if source in topics else None
