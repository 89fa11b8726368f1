"""``Sluice-Deadline``: a finite decimal above 0, and nothing else."""

from __future__ import annotations

import math

import pytest

from app.errors import BadDeadline
from app.http.deadlines import parse_deadline


def test_without_the_field_there_is_no_deadline() -> None:
    assert parse_deadline(None) is None


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"1", 1.0),
        (b"2.5", 2.5),
        (b" 30\t", 30.0),
        (b"0.001", 0.001),
        (b".5", 0.5),
        (b"5.", 5.0),
        (b"007", 7.0),
        (b"0" * 5000 + b"1", 1.0),
    ],
)
def test_a_decimal_above_0_is_that_many_seconds(field: bytes, seconds: float) -> None:
    assert parse_deadline(field) == seconds


@pytest.mark.parametrize("digits", [300, 400])
def test_a_huge_decimal_is_a_finite_deadline(digits: int) -> None:
    seconds = parse_deadline(b"9" * digits)
    assert seconds is not None
    assert math.isfinite(seconds)


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b" ",
        b"0",
        b"0.0",
        b"000",
        b"-1",
        b"-0",
        b"+1",
        b"nan",
        b"NaN",
        b"inf",
        b"Infinity",
        b"-inf",
        b"1e3",
        b"1E-3",
        b"1_000",
        b"1,5",
        b"1, 2",
        b"1 2",
        b"0x10",
        b".",
        b"1.2.3",
        b"30s",
        b"soon",
        b"\xb2",
        "\u0663".encode(),
        b"1\x00",
    ],
)
def test_anything_else_is_refused_with_what_was_given(field: bytes) -> None:
    with pytest.raises(BadDeadline) as caught:
        parse_deadline(field)
    assert (caught.value.status, caught.value.name) == (400, "bad-deadline")
    assert repr(field.strip()[:40].decode("latin-1")) in caught.value.detail


def test_a_long_refused_value_is_told_in_part() -> None:
    with pytest.raises(BadDeadline) as caught:
        parse_deadline(b"x" * 100_000)
    assert len(caught.value.detail) < 200
