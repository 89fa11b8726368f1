"""Conditions and the one range of RFC 9110 over HTTP: sections 13.1, 13.2.2, 14.2 and 15.3.7, for GET and HEAD."""

from __future__ import annotations

from email.utils import formatdate, parsedate_to_datetime
from hashlib import sha256
from typing import Literal

import pytest

from tests.reports.conftest import ADOPTED_MODIFIED, REPORT, Site

_SIZE = len(REPORT)
_CHUNK = 128 * 1024

type Fields = dict[str, str]


def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


_BEFORE, _THEN, _AFTER = (_date(ADOPTED_MODIFIED + seconds) for seconds in (-1, 0, 1))
_OBSOLETE = ["Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023"]


@pytest.fixture
def tag(site: Site) -> str:
    """The entity tag of the report that the tests ask for."""
    return site.head("adopted").fields["etag"]


def _filled(fields: Fields, tag: str) -> Fields:
    return {name: value.replace("TAG", tag) for name, value in fields.items()}


def _status(site: Site, fields: Fields, tag: str) -> int:
    """The status that GET and HEAD agree on."""
    got, head = (ask("adopted", _filled(fields, tag)) for ask in (site.get, site.head))
    assert (head.status, head.body) == (got.status, b"")
    return got.status


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        # If-Match (13.1.1): strong comparison
        ("If-Match", "TAG", 200),
        ("If-Match", "*", 200),
        ("If-Match", '"other", TAG', 200),
        ("If-Match", 'TAG,"other"', 200),
        ("If-Match", '"other"', 412),
        ("If-Match", "W/TAG", 412),
        ("If-Match", '""', 412),
        ("If-Match", "garbage", 412),
        # If-None-Match (13.1.2): weak comparison
        ("If-None-Match", "TAG", 304),
        ("If-None-Match", "W/TAG", 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", '"other", W/"more", TAG', 304),
        ("If-None-Match", '"other"', 200),
        ("If-None-Match", '"a,TAG"', 200),
        ("If-None-Match", "garbage", 200),
        ("If-None-Match", "", 200),
        # If-Modified-Since (13.1.3)
        ("If-Modified-Since", _BEFORE, 200),
        ("If-Modified-Since", _THEN, 304),
        ("If-Modified-Since", _AFTER, 304),
        ("If-Modified-Since", _OBSOLETE[0], 304),
        ("If-Modified-Since", _OBSOLETE[1], 304),
        ("If-Modified-Since", "yesterday", 200),
        ("If-Modified-Since", "2023-11-14T22:13:20Z", 200),
        ("If-Modified-Since", "", 200),
        # If-Unmodified-Since (13.1.4)
        ("If-Unmodified-Since", _BEFORE, 412),
        ("If-Unmodified-Since", _THEN, 200),
        ("If-Unmodified-Since", _AFTER, 200),
        ("If-Unmodified-Since", "yesterday", 200),
    ],
)
def test_each_condition_by_itself(site: Site, tag: str, field: str, value: str, status: int) -> None:
    assert _status(site, {field: value}, tag) == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        # A tag counts, and its date is not looked at.
        ({"If-Match": "TAG", "If-Unmodified-Since": _BEFORE}, 200),
        ({"If-Match": '"other"', "If-Unmodified-Since": _AFTER}, 412),
        ({"If-None-Match": '"other"', "If-Modified-Since": _AFTER}, 200),
        ({"If-None-Match": "TAG", "If-Modified-Since": _BEFORE}, 304),
        ({"If-None-Match": "garbage", "If-Modified-Since": _AFTER}, 200),
        # 412 comes before 304.
        ({"If-Match": '"other"', "If-None-Match": "TAG"}, 412),
        ({"If-Unmodified-Since": _BEFORE, "If-Modified-Since": _AFTER}, 412),
        ({"If-Match": "TAG", "If-None-Match": "TAG"}, 304),
        ({"If-Unmodified-Since": _AFTER, "If-None-Match": "TAG"}, 304),
        ({"If-Match": "*", "If-Modified-Since": _THEN}, 304),
        ({"If-Match": "TAG", "If-None-Match": '"other"'}, 200),
    ],
)
def test_conditions_together_are_asked_in_the_order_of_the_rfc(
    site: Site, tag: str, fields: Fields, status: int
) -> None:
    assert _status(site, fields, tag) == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"If-Match": '"other"'}, 412),
        ({"If-Unmodified-Since": _BEFORE}, 412),
        ({"If-None-Match": "TAG"}, 304),
        ({"If-Modified-Since": _THEN}, 304),
        ({"If-None-Match": "TAG", "If-Range": '"other"'}, 304),
        ({"If-Match": "TAG"}, 206),
        ({"If-None-Match": '"other"', "If-Modified-Since": _AFTER}, 206),
    ],
)
@pytest.mark.parametrize("wanted", ["bytes=0-9", "bytes=999999999-"])
def test_a_range_is_looked_at_after_the_conditions(
    site: Site, tag: str, fields: Fields, status: int, wanted: str
) -> None:
    expected = 416 if status == 206 and "999" in wanted else status
    assert site.get("adopted", _filled({**fields, "Range": wanted}, tag)).status == expected


def test_a_list_that_comes_in_several_fields_is_one_list(site: Site, tag: str) -> None:
    assert site.get("adopted", [("If-None-Match", '"other"'), ("If-None-Match", tag)]).status == 304
    assert site.get("adopted", [("If-Match", '"other"'), ("If-Match", tag)]).status == 200


def test_not_modified_says_what_a_cache_needs_and_has_no_body(any_site: Site) -> None:
    for user in ("ada", "adopted", "small", "empty"):
        whole = any_site.get(user)
        for ask in (any_site.get, any_site.head):
            same = ask(user, {"If-None-Match": whole.fields["etag"], "X-Request-Id": "id-1"})
            assert (same.status, same.body) == (304, b"")
            kept = ("etag", "last-modified", "cache-control")
            assert {name: same.fields[name] for name in kept} == {name: whole.fields[name] for name in kept}
            assert same.fields["x-request-id"] == "id-1"
            assert set(same.fields) == {*kept, "x-request-id", "date"}


def test_a_failed_precondition_is_a_problem(any_site: Site) -> None:
    failed = any_site.get("ada", {"If-Match": '"other"', "Range": "bytes=0-1"})
    assert failed.status == 412
    assert failed.problem["type"] == "urn:sluice:error:precondition-failed"
    assert "etag" not in failed.fields


# -- one range ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-499", 0, 500),
        ("bytes=500-999", 500, 1000),
        (f"bytes=0-{_SIZE - 1}", 0, _SIZE),
        ("bytes=0-", 0, _SIZE),
        ("bytes=9500-", 9500, _SIZE),
        (f"bytes={_SIZE - 1}-", _SIZE - 1, _SIZE),
        (f"bytes={_SIZE - 1}-{_SIZE - 1}", _SIZE - 1, _SIZE),
        (f"bytes=100-{_SIZE}", 100, _SIZE),
        (f"bytes=100-{'9' * 30}", 100, _SIZE),
        ("bytes=-1", _SIZE - 1, _SIZE),
        ("bytes=-500", _SIZE - 500, _SIZE),
        (f"bytes=-{_SIZE}", 0, _SIZE),
        (f"bytes=-{_SIZE + 1}", 0, _SIZE),
        (f"bytes=-{'9' * 30}", 0, _SIZE),
        (f"bytes={_CHUNK - 1}-{_CHUNK}", _CHUNK - 1, _CHUNK + 1),
        (f"bytes={_CHUNK}-{2 * _CHUNK - 1}", _CHUNK, 2 * _CHUNK),
        (f"bytes=1-{2 * _CHUNK}", 1, 2 * _CHUNK + 1),
        ("BYTES=0-9", 0, 10),
        ("bytes= 0-9", 0, 10),
        ("bytes=0-9,", 0, 10),
        ("bytes=,0-9", 0, 10),
        ("bytes=000-0009", 0, 10),
    ],
)
def test_one_range_is_sent_and_only_that(site: Site, wanted: str, start: int, stop: int) -> None:
    whole, part = site.head("adopted"), site.get("adopted", {"Range": wanted})
    assert part.status == 206
    assert part.fields["content-range"] == f"bytes {start}-{stop - 1}/{_SIZE}"
    assert part.fields["content-length"] == str(stop - start)
    assert sha256(part.body).digest() == sha256(REPORT[start:stop]).digest()
    varying = {"date", "x-request-id", "content-length", "content-range"}
    assert {name: value for name, value in part.fields.items() if name not in varying} == {
        name: value for name, value in whole.fields.items() if name not in varying
    }


@pytest.mark.parametrize(
    "wanted", [f"bytes={_SIZE}-", f"bytes={_SIZE}-{_SIZE}", f"bytes={'9' * 30}-", f"bytes={'9' * 5000}-", "bytes=-0"]
)
def test_a_range_that_no_byte_falls_into_is_refused_with_the_size(site: Site, wanted: str) -> None:
    refused = site.get("adopted", {"Range": wanted})
    assert refused.status == 416
    assert refused.problem["type"] == "urn:sluice:error:range-not-satisfiable"
    assert refused.fields["content-range"] == f"bytes */{_SIZE}"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-0,2-3",
        "bytes=0-0, -1",
        "bytes=0-,0-",
        f"bytes=0-1,{_SIZE}-",
        "items=0-1",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=0x0-0x9",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=0-9;q=1",
        "bytes 0-9",
        "bytes=0--1",
        "bytes=--1",
        "0-9",
    ],
)
def test_several_ranges_and_what_is_no_range_are_answered_with_the_whole(site: Site, wanted: str) -> None:
    whole = site.get("adopted", {"Range": wanted})
    assert whole.status == 200
    assert "content-range" not in whole.fields
    assert whole.body == REPORT


def test_a_range_that_comes_in_two_fields_is_ignored(site: Site) -> None:
    assert site.get("small", [("Range", "bytes=0-1"), ("Range", "bytes=4-5")]).status == 200


@pytest.mark.parametrize("wanted", ["bytes=0-9", f"bytes={_SIZE}-", "bytes=-0", "bytes=0-0,2-3"])
@pytest.mark.parametrize("if_range", [None, "TAG", '"other"'])
def test_head_ignores_ranges(site: Site, tag: str, wanted: str, if_range: str | None) -> None:
    fields = {"Range": wanted} | ({} if if_range is None else {"If-Range": if_range})
    head = site.head("adopted", _filled(fields, tag))
    assert (head.status, head.fields["content-length"], head.body) == (200, str(_SIZE), b"")
    assert "content-range" not in head.fields


@pytest.mark.parametrize(
    ("wanted", "status"), [("bytes=0-", 416), ("bytes=0-0", 416), ("bytes=-1", 200), ("bytes=-0", 416)]
)
def test_an_empty_report_has_no_byte_to_ask_for(site: Site, wanted: str, status: int) -> None:
    answer = site.get("empty", {"Range": wanted})
    assert answer.status == status
    if status == 416:
        assert answer.fields["content-range"] == "bytes */0"


# -- If-Range ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        ("TAG", 206),
        ('"other"', 200),
        ("W/TAG", 200),
        ("TAG, TAG", 200),
        ("*", 200),
        ("", 200),
        (_THEN, 206),
        (_OBSOLETE[0], 206),
        (_OBSOLETE[1], 206),
        (_BEFORE, 200),
        (_AFTER, 200),
        ("garbage", 200),
    ],
)
def test_a_range_counts_only_for_the_very_version_that_if_range_names(
    site: Site, tag: str, if_range: str, status: int
) -> None:
    answer = site.get("adopted", _filled({"Range": "bytes=5-9", "If-Range": if_range}, tag))
    assert answer.status == status
    assert answer.body == (REPORT[5:10] if status == 206 else REPORT)
    # A range that cannot be had of this version is no error where another version was meant.
    beyond = site.get("adopted", _filled({"Range": f"bytes={_SIZE}-", "If-Range": if_range}, tag))
    assert beyond.status == (416 if status == 206 else 200)


def test_if_range_without_a_range_does_nothing(site: Site, tag: str) -> None:
    assert _status(site, {"If-Range": "TAG"}, tag) == 200
    assert _status(site, {"If-Range": '"other"'}, tag) == 200


# -- over each database ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["ada", "adopted", "absolute"])
def test_a_client_resumes_and_revalidates_what_it_has(any_site: Site, user: str) -> None:
    whole = any_site.get(user)
    for validator in ("etag", "last-modified"):
        given = whole.fields[validator]
        rest = any_site.get(user, {"Range": f"bytes={_CHUNK + 5}-", "If-Range": given})
        assert (rest.status, whole.body[: _CHUNK + 5] + rest.body) == (206, REPORT)
    tag, date = whole.fields["etag"], whole.fields["last-modified"]
    expected: list[
        tuple[Literal["If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since"], str, int]
    ] = [
        ("If-None-Match", tag, 304),
        ("If-None-Match", '"other"', 200),
        ("If-Match", tag, 200),
        ("If-Match", '"other"', 412),
        ("If-Modified-Since", date, 304),
        ("If-Unmodified-Since", date, 200),
        ("If-Unmodified-Since", _date(0), 412),
    ]
    for field, value, status in expected:
        assert any_site.get(user, {field: value}).status == status, (field, value)


def test_a_report_is_never_modified_later_than_it_is_sent(any_site: Site) -> None:
    for user in ("ada", "small", "adopted"):
        fields = any_site.get(user).fields
        assert parsedate_to_datetime(fields["last-modified"]) <= parsedate_to_datetime(fields["date"])
