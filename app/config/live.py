"""The table ``[live]`` of the TOML file: topics, and what their subscribers may rely on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from app.config.tables import Mistakes, Table

type Policy = Literal["drop-oldest", "coalesce", "disconnect", "block"]

_POLICIES = ("drop-oldest", "coalesce", "disconnect", "block")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s,;]+")
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


_OF_ALL = ("policy", "history_events", "history_bytes", "history_seconds", "buffer_events", "buffer_bytes")
_OF_A_TOPIC = (*_OF_ALL, "max_subscribers", "key", "publish_by_websocket", "from", "steps")


def read_live(content: object, mistakes: Mistakes) -> LiveSettings:
    """``content``: the table ``live``."""
    table = Table("live", content, mistakes, ("origins", "max_subscribers", "topics", *_OF_ALL))
    defaults = _read_common(table, TopicSettings())
    topics = _read_topics(table.table("topics"), defaults)
    return LiveSettings(
        origins=table.texts("origins", _is_origin, 'origins, such as ["https://example.org"]'),
        max_subscribers=_read_most_subscribers(table, LiveSettings.max_subscribers),
        defaults=defaults,
        topics=topics,
    )


def _read_topics(table: Table, defaults: TopicSettings) -> dict[str, TopicSettings]:
    topics: dict[str, TopicSettings] = {}
    for name in table:
        if _TOPIC.fullmatch(name) is None or name in {".", ".."}:
            table.tell(repr(name), "is no name of a topic: 1 to 128 of A-Z a-z 0-9 . _ -")
        else:
            topics[name] = _read_topic(table.table(name, _OF_A_TOPIC), defaults)
    for name in topics:
        seen = list(_sources(topics, name))
        if name in seen:
            table.tell(f"{name}.from", f"{seen[0]!r} is not allowed: a topic that is not derived from this one")
    return topics


def _read_topic(table: Table, defaults: TopicSettings) -> TopicSettings:
    topic = replace(
        _read_common(table, defaults),
        key=table.text("key", "a text"),
        max_subscribers=_read_most_subscribers(table, defaults.max_subscribers),
        publish_by_websocket=table.flag("publish_by_websocket"),
        source=table.text("from", "the name of a topic"),
        steps=table.texts("steps", bool, 'steps, such as ["select:ts,msg"]'),
    )
    for key, said in (("key", topic.key), ("from", topic.source)):
        if said == "":
            table.refuse(key, "a text that is not empty")
    if topic.policy == "coalesce" and topic.key is None:
        table.tell("key", "is needed with the policy coalesce")
    if topic.steps and topic.source is None:
        table.tell("from", "is needed with steps")
    return topic


def _read_common(table: Table, defaults: TopicSettings) -> TopicSettings:
    """What may be said of all topics, and of each."""
    return TopicSettings(
        policy=_read_policy(table, defaults.policy),
        history_events=table.whole("history_events", defaults.history_events, 1, 10_000_000),
        history_bytes=table.size("history_bytes", defaults.history_bytes, 1, 2**40),
        history_seconds=table.seconds("history_seconds", defaults.history_seconds),
        buffer_events=table.whole("buffer_events", defaults.buffer_events, 1, 100_000),
        buffer_bytes=table.size("buffer_bytes", defaults.buffer_bytes, _LEAST_BUFFER_BYTES, 2**30),
    )


def _read_most_subscribers(table: Table, default: int) -> int:
    return table.whole("max_subscribers", default, 1, 1_000_000)


def _read_policy(table: Table, default: Policy) -> Policy:
    policy = table.value("policy") if "policy" in table else default
    if policy in _POLICIES:
        return policy
    table.refuse("policy", f"one of {', '.join(_POLICIES)}")
    return default


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
