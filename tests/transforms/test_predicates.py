"""``where``: what compares as numbers, what as texts, and what is searched."""

from __future__ import annotations

import json
import operator
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transforms.predicates import Predicate, parse_predicate
from tests.transforms.driving import quick

COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

numbers = st.from_regex(r"\A-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?\Z").map(str)
close_numbers = st.sampled_from(
    ["20", "20.0", "2e1", "-0", "0", "9007199254740993", "9007199254740992", "0.1", "0.10", "1e400", "1e-400"]
)
texts = st.text(st.sampled_from('ab"\\é20😀\ue000 '), max_size=3)


def passes(predicate: str, value: str) -> bool:
    return parse_predicate(predicate).test()(msgspec.Raw(value.encode()))


@quick
@given(numbers | close_numbers, st.sampled_from(list(COMPARISONS)), numbers | close_numbers, st.booleans())
def test_numbers_compare_exactly_also_where_the_field_is_text(left: str, sign: str, right: str, quoted: bool) -> None:
    expected = COMPARISONS[sign](Fraction(left), Fraction(right))
    assert passes(f"a{sign}{right}", f'"{left}"' if quoted else left) == expected


@quick
@given(texts, st.sampled_from(list(COMPARISONS)), texts, st.booleans())
def test_texts_compare_by_code_points(left: str, sign: str, right: str, ascii_only: bool) -> None:
    value = json.dumps(left, ensure_ascii=ascii_only)
    assert passes(f"a {sign} {json.dumps(right)}", value) == COMPARISONS[sign](left, right)


@pytest.mark.parametrize(
    ("predicate", "value", "expected"),
    [
        ("a>=20", "19.999", False),
        ("a >= 20", '"20.000"', True),
        ("a==20", '"020"', False),
        ("a<20", '"020"', False),
        ("a<20", '"x"', False),
        ("a>20", '"x"', False),
        ("a!=20", '"x"', True),
        ('a>"20"', '"x"', True),
        ('a=="20"', "20", True),
        ('a=="20"', "20.0", False),
        ("a==true", "true", True),
        ("a==true", '"true"', True),
        ("a==null", "null", True),
        ("a!=null", "0", True),
        ("a==", '""', True),
        ("a==x y", '"x y"', True),
        ("a== x ", '"x"', True),
        ('a==" x "', '"x"', False),
        ("a==1e99999999999999999", "1e99999999999999999", True),
        ("a<1e99999999999999999", "5", True),
        ("a<1e9999999999999999999999", '"1e999"', True),
        ("a~^o", '"ok"', True),
        ("a~k$", '"ok"', True),
        ("a~x", '"ok"', False),
        ("a~", '"ok"', True),
        ("a~é+", '"\\u00e9é"', True),
        ("a~^..$", '"é😀"', True),
        ("a~^1\\.1", "1.10", True),
        ('a~"^ "', '" x"', True),
        ("a~(?i)OK", '"ok"', True),
        ('a~\\{"b"', '{"b":1}', True),
    ],
)
def test_single_cases(predicate: str, value: str, expected: bool) -> None:
    assert passes(predicate, value) == expected


@pytest.mark.parametrize(
    ("arguments", "field", "sign", "value"),
    [
        ("value>=20", "value", ">=", "20"),
        (" value  >  20 ", "value", ">", "20"),
        ("a b==c==d", "a b", "==", "c==d"),
        ("a!b<=>", "a!b", "<=", ">"),
        ('"a==\\"b" != x', 'a=="b', "!=", "x"),
        ("a~b|c", "a", "~", "b|c"),
        ("time:utc<2026", "time:utc", "<", "2026"),
    ],
)
def test_how_a_predicate_is_read(arguments: str, field: str, sign: str, value: str) -> None:
    assert parse_predicate(arguments) == Predicate(field, sign, value)


def test_a_search_takes_linear_time() -> None:
    assert not passes("a~^(a+)+$", json.dumps("a" * 50_000 + "b"))
