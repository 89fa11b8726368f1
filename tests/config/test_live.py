"""``[live]`` of the TOML file: what it may say, and what is said of a mistake in it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.live import LiveSettings, TopicSettings, read_live
from app.config.tables import Mistakes


def read(content: str) -> tuple[LiveSettings, list[str]]:
    return read_table(tomllib.loads(content).get("live", {}))


def read_table(content: object) -> tuple[LiveSettings, list[str]]:
    mistakes = Mistakes("sluice.toml")
    return read_live(content, mistakes), [line.removeprefix("sluice.toml: ") for line in mistakes.lines]


def test_nothing_said_is_the_defaults() -> None:
    assert read("") == (LiveSettings(), [])


def test_all_that_may_be_said() -> None:
    live, mistakes = read("""
        [live]
        origins = ["https://example.org", "*"]
        max_subscribers = 9
        policy = "block"
        history_events = 5
        [live.topics.logs]
        policy = "coalesce"
        key = "id"
        history_bytes = 1000
        history_seconds = 1.5
        buffer_events = 3
        buffer_bytes = 65536
        max_subscribers = 2
        publish_by_websocket = true
        [live.topics.errors]
        from = "logs"
        steps = ["where:level == error"]
    """)
    assert mistakes == []
    assert (live.origins, live.max_subscribers) == (("https://example.org", "*"), 9)
    assert live.defaults == TopicSettings(policy="block", history_events=5)
    assert live.topics["logs"] == TopicSettings("coalesce", "id", 5, 1000, 1.5, 3, 65536, 2, True)
    assert live.topics["errors"] == TopicSettings(
        "block", history_events=5, source="logs", steps=("where:level == error",)
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("live = 3", "live: its value is not allowed: a table, [live]"),
        ("[live]\npolice = 'block'", "live.police: is not known; did you mean live.policy?"),
        ("[live]\npolicy = 'drop'", "live.policy: 'drop' is not allowed: one of drop-oldest, coalesce,"),
        ("[live]\npolicy = []", "live.policy: [] is not allowed: one of "),
        (
            "[live]\norigins = ['example.org']",
            "live.origins: ['example.org'] is not allowed: a list of origins, such as",
        ),
        ("[live]\norigins = ['https://a/']", "live.origins: ['https://a/'] is not allowed"),
        ("[live]\nmax_subscribers = 0", "live.max_subscribers: 0 is not allowed: a whole number from 1 to"),
        ("[live]\nhistory_events = true", "live.history_events: True is not allowed: a whole number"),
        ("[live]\nhistory_seconds = nan", "live.history_seconds: nan is not allowed: a time above 0"),
        ("[live]\nbuffer_bytes = 100", "live.buffer_bytes: 100 is not allowed: a size of 65536"),
        ("[live]\ntopics = 1", "live.topics: its value is not allowed: a table, [live.topics]"),
        ("[live.topics]\na = 1", "live.topics.a: its value is not allowed: a table, [live.topics.a]"),
        ("[live.topics.'a b']", "live.topics.'a b': is no name of a topic"),
        ("[live.topics.a]\nkye = 'x'", "live.topics.a.kye: is not known; did you mean live.topics.a.key?"),
        ("[live.topics.a]\npolicy = 'coalesce'", "live.topics.a.key: is needed with the policy coalesce"),
        ("[live.topics.a]\nsteps = ['head:1']", "live.topics.a.from: is needed with steps"),
        ("[live.topics.a]\nfrom = ''", "live.topics.a.from: '' is not allowed: a text"),
        ("[live.topics.a]\nfrom = 'a'", "live.topics.a.from: 'a' is not allowed: a topic that is not derived"),
        (
            "[live.topics.a]\nfrom = 'b'\nsteps = 'x'",
            "live.topics.a.steps: 'x' is not allowed: a list of steps, such as",
        ),
        ("[live.topics.a]\npublish_by_websocket = 1", "live.topics.a.publish_by_websocket: 1 is not allowed: true"),
    ],
)
def test_a_mistake_names_its_key(content: str, told: str) -> None:
    _, mistakes = read(content)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(told)


def test_topics_in_a_circle_are_told() -> None:
    _, mistakes = read("[live.topics.a]\nfrom = 'b'\n[live.topics.b]\nfrom = 'c'\n[live.topics.c]\nfrom = 'a'\n")
    assert [mistake.partition(":")[0] for mistake in mistakes] == [f"live.topics.{name}.from" for name in "abc"]


keys = st.sampled_from(["origins", "topics", "policy", "from", "steps", "key", "history_events", "history_seconds"])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys | st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_whatever_is_said_is_told_and_not_raised(content: object) -> None:
    live, mistakes = read_table(content)
    assert isinstance(live, LiveSettings)
    assert all(len(mistake.splitlines()) == 1 for mistake in mistakes)
