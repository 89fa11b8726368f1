"""Conditional requests: the table of RFC 9110 13.2.2, the comparison of entity tags, and ``If-Range``."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from app.errors import BadRequest
from app.http.conditions import Validators, Verdict, evaluate, matches, permits_change, range_applies
from app.http.dates import format_date

MODIFIED = 784_111_777  # Sun, 06 Nov 1994 08:49:37 GMT
CURRENT = Validators('"current"', MODIFIED, modified_is_strong=True)
BEFORE, THEN, AFTER = (format_date(MODIFIED + seconds) for seconds in (-1, 0, 1))

# Each field as the client may send it, and whether its condition holds; None where the field has to be ignored.
IF_MATCH = {None: None, '"current"': True, "*": True, 'W/"current"': False, '"other"': False, "nonsense": False}
IF_UNMODIFIED_SINCE = {None: None, BEFORE: False, THEN: True, AFTER: True, "nonsense": None}
IF_NONE_MATCH = {None: None, '"current"': False, "*": False, 'W/"current"': False, '"other"': True, "nonsense": True}
IF_MODIFIED_SINCE = {None: None, BEFORE: True, THEN: False, AFTER: False, "nonsense": None}


def verdict_of_rfc_9110(
    if_match: str | None, if_unmodified_since: str | None, if_none_match: str | None, if_modified_since: str | None
) -> Verdict:
    """RFC 9110 13.2.2 for GET and HEAD, step by step."""
    # 1. and 2.: If-Unmodified-Since is only asked where there is no If-Match.
    holds = IF_UNMODIFIED_SINCE[if_unmodified_since] if if_match is None else IF_MATCH[if_match]
    if holds is False:
        return Verdict.FAILED
    # 3. and 4.: If-Modified-Since is only asked where there is no If-None-Match.
    holds = IF_MODIFIED_SINCE[if_modified_since] if if_none_match is None else IF_NONE_MATCH[if_none_match]
    return Verdict.NOT_MODIFIED if holds is False else Verdict.PROCEED


def fields(**values: str | None) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("match", IF_MATCH)
@pytest.mark.parametrize("unmodified", IF_UNMODIFIED_SINCE)
def test_the_preconditions_are_asked_in_the_order_of_rfc_9110(match: str | None, unmodified: str | None) -> None:
    for none_match, modified in itertools.product(IF_NONE_MATCH, IF_MODIFIED_SINCE):
        given = fields(
            if_match=match, if_unmodified_since=unmodified, if_none_match=none_match, if_modified_since=modified
        )
        assert evaluate(given, CURRENT) is verdict_of_rfc_9110(match, unmodified, none_match, modified), given


def test_without_conditions_a_request_proceeds() -> None:
    assert evaluate({"range": "bytes=0-1"}, CURRENT) is Verdict.PROCEED


@pytest.mark.parametrize("date", ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_a_date_in_an_obsolete_format_is_a_condition_too(date: str) -> None:
    assert evaluate({"if-modified-since": date}, CURRENT) is Verdict.NOT_MODIFIED
    assert evaluate({"if-unmodified-since": date}, CURRENT) is Verdict.PROCEED
    assert range_applies(date, CURRENT)


def test_two_dates_in_one_field_are_no_date_and_ignored() -> None:
    # So does a server see If-Modified-Since that was sent twice.
    assert evaluate({"if-modified-since": f"{THEN}, {THEN}"}, CURRENT) is Verdict.PROCEED
    assert evaluate({"if-unmodified-since": f"{BEFORE}, {BEFORE}"}, CURRENT) is Verdict.PROCEED


# -- entity tags -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "current", "strongly", "weakly"),
    # The table of RFC 9110 8.8.3.2, for the strong tags that Sluice has.
    [('W/"1"', '"1"', False, True), ('W/"2"', '"1"', False, False), ('"1"', '"1"', True, True)],
)
def test_tags_are_compared_strongly_or_weakly(given: str, current: str, *, strongly: bool, weakly: bool) -> None:
    assert matches(given, current, weakly=False) is strongly
    assert matches(given, current, weakly=True) is weakly


@pytest.mark.parametrize(
    "field",
    [
        '"a"',
        '  "a"\t',
        '"b", "a"',
        '"b","a"',
        '"a" , "b"',
        ', ,"a",,',
        ',"b",, "a" ,',
        '"b,c", "a"',
        'W/"b", "a"',
        '"", "a"',
        '"\xe9", "a"',
        "*",
        " * ",
    ],
)
def test_a_list_that_names_the_tag_matches(field: str) -> None:
    assert matches(field, '"a"', weakly=False)
    assert matches(field, '"a"', weakly=True)


@pytest.mark.parametrize(
    "field",
    [
        "",
        " ",
        ",",
        "a",
        "'a'",
        '"a',
        'a"',
        '"b, "a"',
        '"a" "a"',
        '"a";q=1',
        'w/"a"',
        'W/ "a"',
        'W/a"',
        '"a", *',
        '*, "a"',
        "**",
        '"b", a',
        '"a", b',
        '"A"',
        '"a "',
        '"a","b c"',
        '"a\x7f"',
        '"b,"a","c"',
    ],
)
def test_what_is_no_list_of_tags_or_lacks_the_tag_matches_nothing(field: str) -> None:
    assert not matches(field, '"a"', weakly=False)
    assert not matches(field, '"a"', weakly=True)


def test_a_tag_within_another_tag_is_not_that_tag() -> None:
    assert not matches('"x,"', '"x"', weakly=True)
    assert not matches('"xa"', '"a"', weakly=True)


# The time that a match takes must grow with the length of the field, not double with each element: one client could
# hold the event loop for ever. In a process of its own, because such a match cannot be interrupted.
@pytest.mark.parametrize(
    "field",
    ["'\"a\"' + ' ,' * 8000 + 'x'", "'\"a\"' + ', ' * 8000 + 'x'", "' ' * 16000 + 'x'", "'\"a\", ' * 4000 + 'x'"],
)
def test_a_hostile_list_of_tags_is_read_in_time_that_grows_with_its_length(field: str) -> None:
    program = f"from app.http.conditions import matches; print(matches({field}, '\"b\"', weakly=True))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "False"


# -- If-Range ----------------------------------------------------------------------------------------------------------


def test_without_if_range_a_range_applies() -> None:
    assert range_applies(None, CURRENT)


@pytest.mark.parametrize("if_range", ['"current"', ' "current" ', THEN])
def test_a_range_applies_to_the_very_version_that_if_range_names(if_range: str) -> None:
    assert range_applies(if_range, CURRENT)


@pytest.mark.parametrize(
    "if_range", ['W/"current"', '"other"', '"current", "other"', "*", "current", "", BEFORE, AFTER, "nonsense"]
)
def test_a_range_does_not_apply_to_another_version(if_range: str) -> None:
    assert not range_applies(if_range, CURRENT)


def test_a_date_that_is_a_weak_validator_does_not_make_a_range_apply() -> None:
    weak = Validators('"current"', MODIFIED, modified_is_strong=False)
    assert not range_applies(THEN, weak)
    assert range_applies('"current"', weak)


# -- of a method that changes something --------------------------------------------------------------------------------

_CURRENT = Validators('"a"', 1_700_000_000, modified_is_strong=True)
_BEFORE, _AT = "Tue, 14 Nov 2023 22:13:19 GMT", "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    ("fields", "there", "not_there"),
    [
        ({}, True, True),
        ({"if-match": "*"}, True, False),
        ({"if-match": '"a"'}, True, False),
        ({"if-match": '"b", "a"'}, True, False),
        ({"if-match": '"b"'}, False, False),
        ({"if-match": 'W/"a"'}, False, False),
        ({"if-match": "a"}, False, False),
        ({"if-match": ""}, False, False),
        ({"if-none-match": "*"}, False, True),
        ({"if-none-match": '"a"'}, False, True),
        ({"if-none-match": 'W/"a"'}, False, True),
        ({"if-none-match": '"b"'}, True, True),
        ({"if-unmodified-since": _AT}, True, True),
        ({"if-unmodified-since": _BEFORE}, False, True),
        ({"if-unmodified-since": "yesterday"}, True, True),
        ({"if-match": '"a"', "if-unmodified-since": _BEFORE}, True, False),
        ({"if-match": '"a"', "if-none-match": '"a"'}, False, False),
        ({"if-modified-since": _AT}, True, True),
    ],
)
def test_a_change_is_permitted_where_its_conditions_hold(fields: dict[str, str], there: bool, not_there: bool) -> None:
    assert permits_change(fields, _CURRENT) is there
    assert permits_change(fields, None) is not_there


@pytest.mark.parametrize("field", ["a", "", '"a" "b"', '"a', "*, *"])
@pytest.mark.parametrize("current", [_CURRENT, None])
def test_a_change_whose_if_none_match_is_malformed_is_refused(field: str, current: Validators | None) -> None:
    with pytest.raises(BadRequest):
        permits_change({"if-none-match": field}, current)
