"""What waits for one subscriber: bounded whatever comes, in order, and what is missing is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.live.events
from app.live.buffers import Buffer, Policy
from app.live.events import Event, EventId

MOST_EVENTS, MOST_BYTES = 5, 60
puts_and_takes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 2), st.integers(0, 70)),
        st.tuples(st.just("take"), st.integers(1, 80), st.just(0)),
    ),
    max_size=60,
)


def event(sequence: int, key: int = 0, size: int = 0) -> Event:
    return Event(EventId("e", sequence), "message", json.dumps({"k": key, "x": "x" * size}).encode())


def told(events: Sequence[Event]) -> list[Any]:
    """Sequences, and the data of notices."""
    return [one.sequence or json.loads(one.data) for one in events]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["drop-oldest", "coalesce", "disconnect", "block"]), puts_and_takes)
def test_it_is_bounded_in_order_and_complete_with_what_is_told(
    policy: Policy, happened: list[tuple[str, int, int]]
) -> None:
    buffer = Buffer(policy, MOST_EVENTS, MOST_BYTES, "k")
    offered, refused = 0, set[int]()
    got: list[int] = []
    lost = 0

    def take(most: int) -> None:
        nonlocal lost
        before = len(buffer)
        taken = buffer.take(most)
        assert bool(taken) == bool(before)
        for one in taken:
            if one.id is None:
                said = json.loads(one.data)
                lost += said["dropped"]
                assert one is taken[0]
                assert int(said["first"].removeprefix("e-")) <= int(said["last"].removeprefix("e-"))
            else:
                got.append(one.sequence)

    for what, number, size in happened:
        if what == "put":
            offered += 1
            if not buffer.put(event(offered, number, size)):
                refused.add(offered)
        else:
            take(number)
        assert len(buffer) <= MOST_EVENTS
        assert buffer.bytes <= MOST_BYTES or len(buffer) == 1
    while len(buffer):
        take(10_000)
    assert buffer.bytes == 0
    assert got == sorted(set(got))
    assert len(got) + lost + len(refused) == offered
    if policy in {"drop-oldest", "coalesce"}:
        assert not refused
        assert offered == 0 or got[-1] == offered
    else:
        assert lost == 0
    if policy == "disconnect" and refused:
        assert buffer.overflowed
        assert got == list(range(1, min(refused)))


def test_the_oldest_are_dropped_and_told_before_what_follows() -> None:
    buffer = Buffer("drop-oldest", 3, 10_000)
    for sequence in range(1, 8):
        assert buffer.put(event(sequence))
    assert told(buffer.take(10_000)) == [
        {"dropped": 4, "first": "e-1", "last": "e-4", "reason": "dropped"},
        5,
        6,
        7,
    ]
    assert told(buffer.take(10_000)) == []


def test_of_the_same_key_only_the_newest_is_kept() -> None:
    buffer = Buffer("coalesce", 10, 10_000, "k")
    for sequence, key in enumerate([1, 2, 1, 1, 3], 1):
        buffer.put(event(sequence, key))
    assert told(buffer.take(10_000)) == [
        {"dropped": 2, "first": "e-1", "last": "e-3", "reason": "coalesced"},
        2,
        4,
        5,
    ]


def test_what_has_no_key_is_not_the_same_as_anything() -> None:
    buffer = Buffer("coalesce", 10, 10_000, "k")
    for sequence, data in enumerate([b"1", b"[]", b'{"x":1}', b'{"x":1}'], 1):
        buffer.put(Event(EventId("e", sequence), "message", data))
    assert told(buffer.take(10_000)) == [1, 2, 3, 4]


def test_nor_is_what_is_too_deep_to_be_looked_into() -> None:
    deep = b'{"k":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    buffer = Buffer("coalesce", 10, 1_000_000, "k")
    for sequence in range(1, 3):
        assert buffer.put(Event(EventId("e", sequence), "message", deep))
    assert told(buffer.take(1_000_000)) == [1, 2]


def test_an_event_is_looked_into_once_however_many_subscribe(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []

    def member(data: bytes, name: str) -> bytes | None:
        looked.append(data)
        return b"1"

    monkeypatch.setattr(app.live.events, "_member", member)
    buffers = [Buffer("coalesce", 10, 10_000, "k") for _ in range(5)]
    events = [event(sequence) for sequence in range(1, 4)]
    for buffer in buffers:
        for one in events:
            buffer.put(one)
        assert told(buffer.take(10_000))[1:] == [3]
    assert looked == [one.data for one in events]


def test_one_event_gets_in_however_large() -> None:
    buffer = Buffer("block", 3, 10)
    assert buffer.put(event(1, 0, 1000))
    assert not buffer.put(event(2))
    assert told(buffer.take(1)) == [1]
    assert buffer.put(event(2))
