"""Byte ranges: the table of single cases, and the arithmetic against a model that counts bytes one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.ranges import Part, Selection, Unsatisfiable, Whole, select

WHOLE = Whole()
deterministic = settings(derandomize=True, deadline=None, max_examples=300)

# Small, so that every border is met often; and a large one now and then.
sizes = st.integers(0, 12)
positions = st.one_of(st.integers(0, 14), st.sampled_from([2**31, 2**63, 10**17]))


def part_by_counting(wanted: list[int], size: int) -> Selection:
    """The part that holds the ``wanted`` positions of a representation, all of which exist and are neighbours."""
    return Part(wanted[0], wanted[-1] + 1, size) if wanted else Unsatisfiable(size)


@deterministic
@given(sizes, positions, positions)
def test_a_range_from_first_to_last_holds_the_bytes_between_them(size: int, first: int, last: int) -> None:
    wanted = [position for position in range(size) if first <= position <= last]
    expected = WHOLE if last < first else part_by_counting(wanted, size)
    assert select(f"bytes={first}-{last}", size) == expected


@deterministic
@given(sizes, positions)
def test_a_range_without_last_holds_all_from_first_on(size: int, first: int) -> None:
    wanted = [position for position in range(size) if first <= position]
    assert select(f"bytes={first}-", size) == part_by_counting(wanted, size)


@deterministic
@given(st.integers(1, 12), positions)
def test_a_suffix_holds_that_many_of_the_last_bytes(size: int, length: int) -> None:
    wanted = [position for position in range(size) if size - position <= length]
    assert select(f"bytes=-{length}", size) == part_by_counting(wanted, size)


@deterministic
@given(st.integers(0, 2**70), st.text(st.sampled_from("bytes=0123456789-, \t"), max_size=12))
def test_whatever_is_selected_is_never_empty_and_lies_inside(size: int, field: str) -> None:
    match select(f"bytes={field}", size):
        case Part(start, stop, of):
            assert 0 <= start < stop <= size
            assert of == size
        case Unsatisfiable(of):
            assert of == size
        case Whole():
            pass


@deterministic
@given(st.integers(0, 20), st.text(max_size=20))
def test_any_text_selects_something(size: int, field: str) -> None:
    assert isinstance(select(field, size), Whole | Part | Unsatisfiable)


@pytest.mark.parametrize(
    ("field", "selected"),
    [
        (None, WHOLE),
        ("bytes=0-0", Part(0, 1, 10)),
        ("bytes=0-9", Part(0, 10, 10)),
        ("bytes=9-9", Part(9, 10, 10)),
        ("bytes=9-10", Part(9, 10, 10)),
        ("bytes=3-999", Part(3, 10, 10)),
        ("bytes=0-", Part(0, 10, 10)),
        ("bytes=-1", Part(9, 10, 10)),
        ("bytes=-10", Part(0, 10, 10)),
        ("bytes=-11", Part(0, 10, 10)),
        ("bytes=007-08", Part(7, 9, 10)),
        ("BYTES=0-0", Part(0, 1, 10)),
        ("bytes= 0-0 ", Part(0, 1, 10)),
        ("bytes=,0-0,\t,", Part(0, 1, 10)),
        ("bytes=10-", Unsatisfiable(10)),
        ("bytes=10-10", Unsatisfiable(10)),
        ("bytes=-0", Unsatisfiable(10)),
        ("bytes=-000", Unsatisfiable(10)),
    ],
)
def test_one_range_is_selected(field: str | None, selected: Selection) -> None:
    assert select(field, 10) == selected


@pytest.mark.parametrize(
    "field",
    [
        "bytes=0-0,5-6",
        "bytes=0-0, 0-0",
        "bytes=-1,99-",
        "bytes=5-4",
        "bytes=",
        "bytes=,",
        "bytes",
        "bytes=-",
        "bytes=--1",
        "bytes=0--1",
        "bytes=1",
        "bytes=a-b",
        "bytes=0-b",
        "bytes=0x0-0x1",
        "bytes=0 - 1",
        "bytes=+0-1",
        "bytes=0-1;x",
        "bytes=0-1-2",
        "bytes=1_0-",
        "bytes=\u0661-\u0662",
        "items=0-1",
        "byte=0-1",
        "bytes:0-1",
        "0-1",
        "=0-1",
        "",
    ],
)
def test_what_is_no_single_valid_byte_range_is_ignored(field: str) -> None:
    assert select(field, 10) == WHOLE


@pytest.mark.parametrize(
    ("field", "selected"),
    [
        ("bytes=0-", Unsatisfiable(0)),
        ("bytes=0-0", Unsatisfiable(0)),
        ("bytes=-0", Unsatisfiable(0)),
        ("bytes=-5", WHOLE),
    ],
)
def test_of_an_empty_representation_only_a_suffix_is_satisfiable(field: str, selected: Selection) -> None:
    assert select(field, 0) == selected


@pytest.mark.parametrize(
    ("field", "selected"),
    [
        (f"bytes=0-{'9' * 5000}", Part(0, 10, 10)),
        (f"bytes={'9' * 5000}-", Unsatisfiable(10)),
        (f"bytes=-{'9' * 5000}", Part(0, 10, 10)),
        (f"bytes={'0' * 5000}1-1", Part(1, 2, 10)),
    ],
)
def test_numbers_longer_than_python_converts_are_numbers(field: str, selected: Selection) -> None:
    assert select(field, 10) == selected


def test_content_range_counts_the_last_byte_in() -> None:
    assert Part(2, 5, 10).content_range == "bytes 2-4/10"
    assert Part(0, 1, 1).content_range == "bytes 0-0/1"
    assert Unsatisfiable(10).content_range == "bytes */10"
