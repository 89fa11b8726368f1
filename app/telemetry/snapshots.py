"""What was counted up to one moment, as a value: several workers' are merged into one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from app.telemetry.families import FAMILIES, Family


class Exemplar(msgspec.Struct, array_like=True, frozen=True):
    """One value of a bucket, and the trace that it belongs to. when: seconds since the epoch."""

    trace_id: str
    value: float
    when: float


class Distribution(msgspec.Struct, array_like=True):
    """A histogram. counts: of each bucket by itself. exemplars: by the bucket's number."""

    counts: list[int]
    total: float
    exemplars: dict[int, Exemplar] = {}


type Value = float | Distribution
type Samples = dict[tuple[str, ...], Value]
type Snapshot = dict[str, Samples]
"""By the family's name, and the values of its labels."""


def add(snapshot: Snapshot, family: Family, labels: tuple[str, ...], value: Value) -> None:
    """Adds a value to what there is, as the family says."""
    samples = snapshot.setdefault(family.name, {})
    before = samples.get(labels)
    samples[labels] = value if before is None else _merged(family, before, value)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """All together. What is no family of ours, as another version may have written it, is left out."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for name, samples in snapshot.items():
            if (family := FAMILIES.get(name)) is not None:
                for labels, value in samples.items():
                    if _fits(family, labels, value):
                        add(merged, family, labels, value)
    return merged


def only_counts(snapshot: Snapshot) -> Snapshot:
    """Without gauges: what remains true of a process that has ended."""
    return {name: samples for name, samples in snapshot.items() if FAMILIES[name].kind != "gauge"}


def encode(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """*Errors*: ValueError."""
    return _decoder.decode(data)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Snapshot] = msgspec.msgpack.Decoder(
    dict[str, dict[tuple[str, ...], float | Distribution]]
)


def _fits(family: Family, labels: tuple[str, ...], value: Value) -> bool:
    if len(labels) != len(family.labels) or isinstance(value, Distribution) != (family.kind == "histogram"):
        return False
    return not isinstance(value, Distribution) or len(value.counts) == len(family.buckets) + 1


def _merged(family: Family, one: Value, other: Value) -> Value:
    if isinstance(one, Distribution) and isinstance(other, Distribution):
        counts = [mine + theirs for mine, theirs in zip(one.counts, other.counts, strict=True)]
        exemplars = dict(one.exemplars)
        for bucket, exemplar in other.exemplars.items():
            if bucket not in exemplars or exemplars[bucket].when < exemplar.when:
                exemplars[bucket] = exemplar
        return Distribution(counts, one.total + other.total, exemplars)
    if isinstance(one, Distribution) or isinstance(other, Distribution):
        raise TypeError(f"{family.name}: a number and a histogram")
    match family.merge:
        case "sum":
            return one + other
        case "max":
            return max(one, other)
        case "min":
            return min(one, other)
