"""``/api/report/{user_id}`` as its clients see it: the bytes, what is said about them, and each way it can fail."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from typing import Any

import pytest

from tests.exchange import Connection, ask
from tests.faults.traffic import wait_until
from tests.reports.conftest import REPORT, UNREADABLE, Site

_PROBLEM_MEMBERS = {"type", "title", "status", "detail", "request_id", "error"}


# -- the report --------------------------------------------------------------------------------------------------------


def test_a_report_comes_with_its_bytes_and_what_the_contract_lists(any_site: Site) -> None:
    report = any_site.get("ada", {"X-Request-Id": "id-1"})
    assert report.status == 200
    assert sha256(report.body).digest() == sha256(REPORT).digest()
    fields = dict(report.fields)
    assert fields.pop("etag").startswith('"')
    del fields["last-modified"], fields["date"]
    assert fields == {
        "content-type": "application/pdf",
        "content-length": str(len(REPORT)),
        "content-disposition": 'inline; filename="report-ada.pdf"',
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
        "x-request-id": "id-1",
    }


@pytest.mark.parametrize("user", ["adopted", "absolute"])
def test_a_report_of_the_originals_table_is_served_as_it_is(any_site: Site, user: str) -> None:
    report = any_site.get(user)
    assert (report.status, report.body) == (200, REPORT)
    assert report.fields["content-type"] == "application/pdf"
    assert report.fields["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize("user", ["ada", "adopted", "small", "empty"])
def test_head_says_the_same_as_get_without_the_body(any_site: Site, user: str) -> None:
    got, head = any_site.get(user), any_site.head(user)
    assert (head.status, head.body) == (200, b"")
    varying = {"date", "x-request-id"}
    assert {name: value for name, value in head.fields.items() if name not in varying} == {
        name: value for name, value in got.fields.items() if name not in varying
    }


def test_an_empty_report_is_a_report(any_site: Site) -> None:
    report = any_site.get("empty")
    assert (report.status, report.body, report.fields["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("user", ["A.b_c@d-9", "A%2Eb_c%40d-9", "%41.b_c@d-9"])
def test_a_user_id_may_be_percent_encoded(any_site: Site, user: str) -> None:
    assert any_site.get(user).body == b"odd"


def test_the_longest_user_id_is_served(any_site: Site) -> None:
    assert any_site.get("x" * 128).body == b"long"


@pytest.mark.parametrize("user", ["Ada", "ADA", "ada.", "a_a"])
def test_a_user_of_a_similar_name_is_another_user(any_site: Site, user: str) -> None:
    assert any_site.get(user).status == 404


def test_a_query_does_not_matter(site: Site) -> None:
    assert site.get("small?a=/../b%00&versions&step").body == b"0123456789"


def test_what_could_run_script_is_not_shown_in_place(site: Site) -> None:
    report = site.get("page")
    assert report.fields["content-disposition"] == 'attachment; filename="report-page.html"'
    assert report.fields["x-content-type-options"] == "nosniff"


def test_a_connection_goes_on_after_each_kind_of_answer(any_site: Site) -> None:
    with Connection(any_site.server.port) as connection:
        tag = connection.ask("GET", "/api/report/ada").fields["etag"]
        kinds: list[tuple[str, str, dict[str, str], int]] = [
            ("HEAD", "ada", {}, 200),
            ("GET", "ada", {"Range": "bytes=1-200000"}, 206),
            ("GET", "ada", {"If-None-Match": tag}, 304),
            ("HEAD", "ada", {"If-None-Match": tag}, 304),
            ("GET", "ada", {"If-Match": '"other"'}, 412),
            ("GET", "ada", {"Range": "bytes=999999999-"}, 416),
            ("GET", "nobody", {}, 404),
            ("HEAD", "nobody", {}, 404),
            ("GET", "a%20b", {}, 400),
            ("GET", "gone", {}, 500),
            ("PATCH", "ada", {}, 405),
            ("GET", "ada", {}, 200),
        ]
        for method, user, fields, status in kinds:
            assert connection.ask(method, f"/api/report/{user}", fields).status == status
            assert connection.open, (method, user, fields)


def test_no_answer_that_is_as_it_should_be_is_logged_as_an_error(any_site: Site) -> None:
    tag = any_site.get("small").fields["etag"]
    asked = {"200": {}, "206": {"Range": "bytes=0-1"}, "304": {"If-None-Match": tag}, "416": {"Range": "bytes=99-"}}
    for status, fields in asked.items():
        assert any_site.get("small", {**fields, "X-Request-Id": f"ok-{status}"}).status == int(status)

    def lines() -> list[dict[str, Any]]:
        return [line for line in any_site.server.log() if line.get("request_id", "").startswith("ok-")]

    wait_until(lambda: len({line["request_id"] for line in lines()}) == len(asked), "the requests are logged")
    assert {(line["request_id"], line["event"], line.get("outcome"), line.get("bytes", 0) > 0) for line in lines()} == {
        ("ok-200", "request", "ok", True),
        ("ok-206", "request", "ok", True),
        ("ok-304", "request", "ok", False),
        ("ok-416", "request", "client_error", True),
    }


# -- no report ---------------------------------------------------------------------------------------------------------


def test_an_unknown_user_is_a_problem_with_exactly_these_members(any_site: Site) -> None:
    missing = any_site.get("nobody", {"X-Request-Id": "id-1"})
    assert missing.status == 404
    assert missing.problem == {
        "type": "urn:sluice:error:report-not-found",
        "title": "Report not found",
        "status": 404,
        "detail": "there is no report for user 'nobody'",
        "request_id": "id-1",
        "error": "Report not found",
    }
    assert missing.fields["x-request-id"] == "id-1"
    assert not {"etag", "last-modified", "accept-ranges", "content-disposition"} & set(missing.fields)


@pytest.mark.parametrize(
    "user",
    [
        ".",
        "..",
        "%2e%2e",
        "%2E",
        "..%2fsecret.pdf",
        "..%2F..%2F..%2Fetc%2Fpasswd",
        "%2F",
        "%2Fetc%2Fpasswd",
        "ada%2F",
        "ada%2F..",
        "a%2Fb",
        "a%5Cb",
        "%00",
        "ada%00",
        "ada%0A",
        "a%0Db",
        "%0A",
        "a%20b",
        "+",
        "a,b",
        "a:b",
        "*",
        "~ada",
        "'",
        "%22%3B--",
        "a%25b",
        "%",
        "%zz",
        "%FF",
        "na%C3%AFve",
        "%D9%A1",
        "%F0%9F%98%80",
        "%EF%BC%A1",
        "x" * 129,
        "x" * 5000,
    ],
)
def test_a_bad_user_id_is_refused(site: Site, user: str) -> None:
    refused = site.get(user)
    assert refused.status == 400
    assert refused.problem["type"] == "urn:sluice:error:bad-user-id"
    assert set(refused.problem) == _PROBLEM_MEMBERS
    assert len(refused.problem["detail"]) < 400
    assert site.head(user).status == 400


@pytest.mark.parametrize("path", ["", "/", "/ada/", "/ada/x", "//ada", "/ada//", "/a%2Fb/c", "s/ada"])
def test_what_is_near_the_route_is_not_the_route(site: Site, path: str) -> None:
    missing = ask(site.server.port, "GET", f"/api/report{path}")
    assert missing.status in {400, 404} if path == "/" else missing.status == 404
    assert missing.problem["status"] == missing.status


@pytest.mark.parametrize("method", ["PATCH", "POST", "PROPFIND"])
def test_another_method_is_refused_with_those_that_are_allowed(site: Site, method: str) -> None:
    refused = ask(site.server.port, method, "/api/report/ada")
    assert (refused.status, refused.problem["type"]) == (405, "urn:sluice:error:method-not-allowed")
    assert {"GET", "HEAD"} <= set(refused.fields["allow"].split(", "))
    assert method not in refused.fields["allow"]


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan"])
def test_a_bad_deadline_is_refused(site: Site, seconds: str) -> None:
    refused = site.get("ada", {"Sluice-Deadline": seconds})
    assert (refused.status, refused.problem["type"]) == (400, "urn:sluice:error:bad-deadline")


# -- unreadable reports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", UNREADABLE)
def test_a_row_without_a_readable_file_is_500_and_only_the_log_has_the_path(any_site: Site, user: str) -> None:
    failed = any_site.get(user, {"X-Request-Id": f"unreadable-{user}"})
    assert failed.status == 500
    assert failed.problem == {
        "type": "urn:sluice:error:report-unreadable",
        "title": "Report unreadable",
        "status": 500,
        "detail": "the report's file cannot be read",
        "request_id": f"unreadable-{user}",
        "error": "Report unreadable",
    }
    path = UNREADABLE[user]
    shown = failed.body + str(failed.fields).encode()
    assert not path or path.encode() not in shown
    assert str(any_site.reports).encode() not in shown

    def lines() -> list[dict[str, Any]]:
        log = any_site.server.log()
        return [line for line in log if line.get("request_id") == f"unreadable-{user}" and line["level"] == "error"]

    wait_until(lines, "the error is logged")
    (line,) = lines()
    assert repr(path) in line["reason"]
    assert line["error"] == "report-unreadable"
    assert "exception" not in line


def test_a_report_that_comes_back_is_served_again(any_site: Site) -> None:
    path = any_site.reports / "old" / "adopted.pdf"
    away = path.rename(path.with_suffix(".away"))
    try:
        assert any_site.get("adopted").status == 500
        assert any_site.head("adopted").status == 500
    finally:
        away.rename(path)
    assert any_site.get("adopted").body == REPORT


def test_conditions_do_not_hide_that_there_is_nothing_to_read(site: Site) -> None:
    for fields in ({"If-None-Match": "*"}, {"If-Match": "*"}, {"Range": "bytes=0-0"}):
        assert site.get("gone", fields).status == 500
        assert site.get("nobody", fields).status == 404


def test_a_problem_is_read_by_clients_of_the_original(site: Site) -> None:
    assert json.load(io.BytesIO(site.get("nobody").body))["error"] == "Report not found"
