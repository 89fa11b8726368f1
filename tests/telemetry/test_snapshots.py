"""Snapshots of several workers become one: each count once, in whatever order."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry.families import FAMILIES, Family
from app.telemetry.snapshots import (
    Distribution,
    Exemplar,
    Snapshot,
    Value,
    add,
    decode,
    encode,
    merge,
    only_counts,
)

_FAMILIES = [FAMILIES[name] for name in ("http_requests_total", "process_start_time_seconds", "sluice_tasks")] + [
    FAMILIES[name] for name in ("sluice_thread_pool_utilisation", "http_request_duration_seconds")
]
# Whole numbers, so that their sums do not depend on the order.
_numbers = st.integers(0, 10**6).map(float)
_exemplars = st.builds(Exemplar, st.sampled_from(["a", "b"]), _numbers, _numbers)


def _values(family: Family) -> st.SearchStrategy[Value]:
    if family.kind != "histogram":
        return _numbers
    size = len(family.buckets) + 1
    counts = st.lists(st.integers(0, 1000), min_size=size, max_size=size)
    return st.builds(Distribution, counts, _numbers, st.dictionaries(st.integers(0, size - 1), _exemplars, max_size=3))


def _samples(family: Family) -> st.SearchStrategy[dict[tuple[str, ...], Value]]:
    labels = st.tuples(*[st.sampled_from(["x", "y", "é\ud7ff"]) for _ in family.labels])
    return st.dictionaries(labels, _values(family), max_size=3)


_snapshots: st.SearchStrategy[Snapshot] = st.fixed_dictionaries(
    {}, optional={family.name: _samples(family) for family in _FAMILIES}
)
quickly = settings(max_examples=60, deadline=None)


def _told(snapshot: Snapshot) -> object:
    """Without exemplars, of which any may be the last."""
    return {
        (name, labels): (value.counts, value.total) if isinstance(value, Distribution) else value
        for name, samples in snapshot.items()
        for labels, value in samples.items()
    }


@quickly
@given(_snapshots)
def test_what_is_written_is_read_as_it_was(snapshot: Snapshot) -> None:
    assert decode(encode(snapshot)) == snapshot


@quickly
@given(st.lists(_snapshots, max_size=4), st.randoms(use_true_random=False))
def test_the_order_does_not_matter_nor_who_merges_first(snapshots: list[Snapshot], random: Random) -> None:
    shuffled = list(snapshots)
    random.shuffle(shuffled)
    whole = merge(snapshots)
    assert _told(merge(shuffled)) == _told(whole)
    assert _told(merge([merge(snapshots[:2]), merge(snapshots[2:])])) == _told(whole)


@quickly
@given(st.lists(_snapshots, max_size=4))
def test_counts_add_up(snapshots: list[Snapshot]) -> None:
    merged = merge(snapshots).get("http_requests_total", {})
    for labels in {labels for snapshot in snapshots for labels in snapshot.get("http_requests_total", {})}:
        values = [snapshot.get("http_requests_total", {}).get(labels, 0.0) for snapshot in snapshots]
        assert merged[labels] == sum(value for value in values if isinstance(value, float))


@quickly
@given(_snapshots, _snapshots)
def test_what_goes_in_stays_as_it_is(one: Snapshot, other: Snapshot) -> None:
    before = encode(one), encode(other)
    merge([one, other, one])
    assert (encode(one), encode(other)) == before


@quickly
@given(_snapshots)
def test_of_what_has_ended_gauges_are_not_told(snapshot: Snapshot) -> None:
    kept = only_counts(snapshot)
    assert {FAMILIES[name].kind for name in kept} <= {"counter", "histogram"}
    assert set(snapshot) - set(kept) <= {name for name in snapshot if FAMILIES[name].kind == "gauge"}


def test_gauges_are_merged_as_their_family_says() -> None:
    each: Snapshot = {"sluice_tasks": {(): 2.0}, "process_start_time_seconds": {(): 9.0}}
    found = merge([each] * 2)
    assert found == {"sluice_tasks": {(): 4.0}, "process_start_time_seconds": {(): 9.0}}
    busiest: list[Snapshot] = [{"sluice_thread_pool_utilisation": {("files",): share}} for share in (0.2, 0.9, 0.1)]
    assert merge(busiest) == {"sluice_thread_pool_utilisation": {("files",): 0.9}}


def test_of_exemplars_the_newest_stays() -> None:
    old, new = Exemplar("a", 1.0, 1.0), Exemplar("b", 1.0, 2.0)
    family = FAMILIES["sluice_db_wait_seconds"]
    counts = [0] * (len(family.buckets) + 1)
    for first, second in ((old, new), (new, old)):
        found = merge([{family.name: {(): Distribution(counts, 0, {3: one})}} for one in (first, second)])
        value = found[family.name][()]
        assert isinstance(value, Distribution)
        assert value.exemplars == {3: new}


@pytest.mark.parametrize(
    "strange",
    [
        {"no_such_family": {(): 1.0}},
        {"sluice_tasks": {("a label too many",): 1.0}},
        {"sluice_db_wait_seconds": {(): 1.0}},
        {"sluice_db_wait_seconds": {(): Distribution([1, 2], 3.0)}},
        {"sluice_tasks": {(): Distribution([1, 2], 3.0)}},
    ],
)
def test_what_another_version_has_written_does_no_harm(strange: Snapshot) -> None:
    assert merge([strange, {"sluice_compute_queue": {(): 1.0}}]) == {"sluice_compute_queue": {(): 1.0}}


def test_a_number_and_a_histogram_are_not_added() -> None:
    snapshot: Snapshot = {}
    family = FAMILIES["sluice_db_wait_seconds"]
    add(snapshot, family, (), Distribution([0] * (len(family.buckets) + 1), 0.0))
    with pytest.raises(TypeError, match="sluice_db_wait_seconds"):
        add(snapshot, family, (), 1.0)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"{}"])
def test_what_is_no_snapshot_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(data)
