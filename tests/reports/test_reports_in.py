"""``PUT``, ``DELETE`` and the versions of ``/api/report/{user_id}``, as their clients see them."""

from __future__ import annotations

import base64
import json
import random
import re
import time
from hashlib import sha256, sha512
from typing import Any

import pytest

from tests.exchange import Answer, Connection, ask
from tests.faults.traffic import RawClient, wait_until
from tests.reports.conftest import Site

_DATA = b"%PDF-1.7\n" + random.Random(2).randbytes(2_500_000)  # some parts, and a rest
_MEMBERS = {"user_id", "size", "media_type", "etag", "last_modified", "version"}


def _sha256(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256(data).digest()).decode()}:"


def _versions(site: Site, user: str) -> Any:
    answer = ask(site.server.port, "GET", f"/api/report/{user}/versions")
    assert (answer.status, answer.fields["content-type"]) == (200, "application/json")
    return json.loads(answer.body)


def _refusal(answer: Answer, status: int, name: str) -> None:
    assert (answer.status, answer.problem["type"]) == (status, f"urn:sluice:error:{name}")


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of the test's own."""
    return re.sub(r"[^A-Za-z0-9._@-]", "-", request.node.name)[-100:].lstrip(".-") + str(time.monotonic_ns())


# -- in ----------------------------------------------------------------------------------------------------------------


def test_a_report_that_was_put_is_served_as_it_came(any_site: Site, user: str) -> None:
    put = any_site.put(user, _DATA, {"X-Request-Id": "put-1"})
    assert put.status == 201
    assert put.fields["location"] == f"/api/report/{user}"
    assert put.fields["content-type"] == "application/json"
    told = json.loads(put.body)
    assert set(told) == _MEMBERS
    assert (told["user_id"], told["size"], told["media_type"], told["version"]) == (
        user,
        len(_DATA),
        "application/pdf",
        1,
    )
    got = ask(any_site.server.port, "GET", put.fields["location"])
    assert sha256(got.body).digest() == sha256(_DATA).digest()
    assert got.fields["etag"] == put.fields["etag"] == told["etag"]
    modified = time.strptime(told["last_modified"], "%Y-%m-%dT%H:%M:%SZ")
    assert time.strftime("%a, %d %b %Y %H:%M:%S GMT", modified) == got.fields["last-modified"]


def test_a_report_that_replaces_another_is_another_version(any_site: Site, user: str) -> None:
    first = any_site.put(user, b"first", {"Content-Type": "text/plain"})
    second = any_site.put(user, b"second", {"Content-Type": "text/csv; charset=utf-8"})
    assert (first.status, second.status) == (201, 200)
    assert first.fields["etag"] != second.fields["etag"]
    got = any_site.get(user)
    assert (got.body, got.fields["content-type"]) == (b"second", "text/csv; charset=utf-8")


@pytest.mark.parametrize("body", [b"", b"x", b"%PDF-"])
def test_a_small_body_is_a_report_too(any_site: Site, user: str, body: bytes) -> None:
    assert any_site.put(user, body).status == 201
    got = any_site.get(user)
    assert got.body == body
    kind = "application/pdf" if body.startswith(b"%PDF-") else "application/octet-stream"
    assert got.fields["content-type"] == kind


def test_a_body_may_come_in_chunks_without_a_length(site: Site, user: str) -> None:
    with RawClient(site.server.port) as client:
        client.send(f"PUT /api/report/{user} HTTP/1.1\r\nHost: sluice\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for start in range(0, len(_DATA), 70_001):
            part = _DATA[start : start + 70_001]
            client.send(b"%x\r\n%b\r\n" % (len(part), part))
        client.send(b"0\r\n\r\n")
        head, told = client.answer()
    assert (head.status, told["size"]) == (201, len(_DATA))
    assert site.get(user).body == _DATA


def test_a_connection_goes_on_after_each_kind_of_change(any_site: Site, user: str) -> None:
    path = f"/api/report/{user}"
    with Connection(any_site.server.port) as connection:
        steps: list[tuple[str, dict[str, str], bytes | None, int]] = [
            ("DELETE", {}, None, 404),
            ("PUT", {"If-Match": "*"}, b"x", 412),
            ("PUT", {"Content-Digest": _sha256(b"y")}, b"x", 400),
            ("PUT", {}, b"x", 201),
            ("PUT", {"Content-Range": "bytes 0-0/2"}, b"x", 400),
            ("PUT", {}, b"y", 200),
            ("DELETE", {"If-Match": '"x"'}, None, 412),
            ("DELETE", {}, None, 204),
            ("GET", {}, None, 404),
        ]
        for method, fields, body, status in steps:
            assert connection.ask(method, path, fields, body).status == status, (method, fields)
            assert connection.open


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["a%20b", "..", "%2e%2e", "x" * 129, "%00", "na%C3%AFve"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_bad_user_id_is_refused(site: Site, method: str, user: str) -> None:
    before = site.files()
    _refusal(ask(site.server.port, method, f"/api/report/{user}", (), b"x"), 400, "bad-user-id")
    assert site.files() == before


@pytest.mark.parametrize(
    ("fields", "status", "name"),
    [
        ({"Content-Type": "nonsense"}, 400, "bad-request"),
        ({"Content-Type": "text/" + "x" * 200}, 400, "bad-request"),
        ({"Content-Range": "bytes 0-0/1"}, 400, "bad-request"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported-content-encoding"),
        ({"Content-Encoding": "identity, gzip"}, 415, "unsupported-content-encoding"),
        ({"Content-Digest": "sha-256=x"}, 400, "bad-request"),
        ({"Repr-Digest": "sha-256=:AAAA:"}, 400, "bad-request"),
        ({"Content-Digest": _sha256(b"other")}, 400, "digest-mismatch"),
        ({"Repr-Digest": _sha256(b"other")}, 400, "digest-mismatch"),
        ({"Content-Digest": _sha256(b"body"), "Repr-Digest": _sha256(b"other")}, 400, "digest-mismatch"),
        ({"If-None-Match": "nonsense"}, 400, "bad-request"),
        ({"If-Match": "*"}, 412, "precondition-failed"),
        ({"If-Match": '"x"'}, 412, "precondition-failed"),
    ],
)
def test_what_cannot_be_stored_as_it_is_said_to_be_is_refused_and_leaves_nothing(
    site: Site, user: str, fields: dict[str, str], status: int, name: str
) -> None:
    before = site.files()
    _refusal(site.put(user, b"body", fields), status, name)
    assert site.files() == before
    assert site.get(user).status == 404


@pytest.mark.parametrize(
    "fields",
    [
        {"Content-Encoding": "identity"},
        {"Content-Encoding": "Identity"},
        {"Content-Digest": _sha256(b"body")},
        {"Repr-Digest": _sha256(b"body"), "Content-Digest": _sha256(b"body")},
        {"Content-Digest": f"sha-512=:{base64.b64encode(sha512(b'other').digest()).decode()}:"},
        {"If-None-Match": "*"},
        {"If-None-Match": '"x"'},
        {"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"},
    ],
)
def test_what_holds_is_no_reason_to_refuse(site: Site, user: str, fields: dict[str, str]) -> None:
    assert site.put(user, b"body", fields).status == 201
    assert site.get(user).body == b"body"


def test_a_body_that_is_larger_than_allowed_is_refused_and_leaves_nothing(limited_site: Site) -> None:
    before = limited_site.files()
    _refusal(limited_site.put("ada", bytes(100_001)), 413, "body-too-large")
    with RawClient(limited_site.server.port) as client:
        client.send(b"PUT /api/report/ada HTTP/1.1\r\nHost: sluice\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"186a0\r\n" + bytes(100_000) + b"\r\n1\r\nx\r\n0\r\n\r\n")
        assert client.answer()[0].status == 413
    assert limited_site.files() == before
    assert limited_site.put("new", bytes(100_000)).status == 201


# -- conditions --------------------------------------------------------------------------------------------------------


def test_conditions_are_those_of_what_is_replaced(any_site: Site, user: str) -> None:
    first = any_site.put(user, b"first", {"If-None-Match": "*"})
    tag = first.fields["etag"]
    modified = any_site.get(user).fields["last-modified"]
    for fields in (
        {"If-None-Match": "*"},
        {"If-None-Match": tag},
        {"If-Match": '"other"'},
        {"If-Match": f"W/{tag}"},
        {"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"},
    ):
        _refusal(any_site.put(user, b"other", fields), 412, "precondition-failed")
        _refusal(any_site.delete(user, fields), 412, "precondition-failed")
    assert any_site.get(user).body == b"first"
    assert any_site.put(user, b"second", {"If-Match": f'"other", {tag}'}).status == 200
    assert any_site.put(user, b"third", {"If-Match": tag}).status == 412
    assert any_site.put(user, b"third", {"If-Unmodified-Since": modified}).status == 412
    assert any_site.put(user, b"third", {"If-Match": "*", "If-None-Match": tag}).status == 200
    assert any_site.delete(user, {"If-Match": tag}).status == 412
    assert any_site.delete(user, {"If-Match": any_site.get(user).fields["etag"]}).status == 204


def test_where_the_reports_folder_is_gone_nothing_is_stored_and_only_the_log_has_the_path(fresh_site: Site) -> None:
    away = fresh_site.reports.rename(fresh_site.reports.with_name("away"))
    failed = fresh_site.put("new", _DATA, {"X-Request-Id": "unwritable"})
    _refusal(failed, 500, "reports-unwritable")
    assert failed.problem["title"] == "Reports unwritable"
    assert str(fresh_site.reports).encode() not in failed.body

    def lines() -> list[dict[str, Any]]:
        log = fresh_site.server.log()
        return [line for line in log if line.get("request_id") == "unwritable" and line["level"] == "error"]

    wait_until(lines, "the error is logged")
    (line,) = lines()
    assert line["error"] == "reports-unwritable"
    assert str(fresh_site.reports) in line["reason"]
    assert "exception" not in line
    away.rename(fresh_site.reports)
    assert fresh_site.put("new", _DATA).status == 201


@pytest.mark.parametrize("query", ["version=1", "version=", "step=gunzip", "a=b&version=1"])
def test_a_change_that_seems_meant_for_a_part_of_the_report_changes_nothing(site: Site, user: str, query: str) -> None:
    site.put(user, b"first")
    for answer in (site.put(f"{user}?{query}", b"second"), site.delete(f"{user}?{query}")):
        _refusal(answer, 400, "bad-request")
        assert "is for GET" in answer.problem["detail"]
    assert [version["version"] for version in _versions(site, user)["versions"]] == [1]
    assert site.get(user).body == b"first"
    assert site.put(f"{user}?a=b", b"second").status == 200


@pytest.mark.parametrize("user", ["gone", "folder"])
def test_a_report_that_cannot_be_read_is_there_but_has_no_tag(any_site: Site, user: str) -> None:
    _refusal(any_site.put(user, b"x", {"If-None-Match": "*"}), 412, "precondition-failed")
    _refusal(any_site.put(user, b"x", {"If-Match": '"x"'}), 412, "precondition-failed")


def test_an_adopted_report_is_replaced_by_whoever_knows_its_tag(fresh_site: Site) -> None:
    tag = fresh_site.get("adopted").fields["etag"]
    assert fresh_site.put("adopted", b"new", {"If-Match": '"x"'}).status == 412
    put = fresh_site.put("adopted", b"new", {"If-Match": tag})
    assert (put.status, json.loads(put.body)["version"]) == (200, 2)
    newest, old = _versions(fresh_site, "adopted")["versions"]
    assert (newest["version"], old) == (
        2,
        {"user_id": "adopted", "version": 1} | dict.fromkeys(_MEMBERS - {"user_id", "version"}),
    )
    assert fresh_site.get("adopted?version=1").fields["etag"] == tag
    assert fresh_site.delete("adopted").status == 204
    assert "old/adopted.pdf" in fresh_site.files()  # whoever wrote it may still want it


def test_a_client_that_waits_for_leave_is_told_what_keeps_it_from_sending(site: Site, user: str) -> None:
    site.put(user, b"first")
    head = f"PUT /api/report/{user} HTTP/1.1\r\nHost: sluice\r\nContent-Length: 6\r\nExpect: 100-continue\r\n"
    for field, status in (("If-None-Match: *", 412), ("Content-Encoding: gzip", 415)):
        with RawClient(site.server.port) as client:
            client.send(f"{head}{field}\r\n\r\n".encode())
            assert client.read_head().status == status
    with RawClient(site.server.port) as client:
        client.send(f"{head}\r\n".encode())
        assert client.read_head().status == 100
        client.send(b"second")
        assert client.read_head().status == 200
    assert site.get(user).body == b"second"


# -- versions ----------------------------------------------------------------------------------------------------------


def test_versions_are_listed_newest_first_and_each_is_served_with_all_that_goes_with_it(
    any_site: Site, user: str
) -> None:
    puts = [any_site.put(user, b"version %d" % number, {"Content-Type": "text/plain"}) for number in range(1, 8)]
    told = _versions(any_site, user)
    assert told == {"user_id": user, "versions": [json.loads(put.body) for put in reversed(puts[-5:])]}
    for number, put in enumerate(puts, 1):
        got = any_site.get(f"{user}?version={number}")
        if number <= 2:  # five are kept
            _refusal(got, 404, "version-not-found")
            continue
        assert (got.status, got.body, got.fields["etag"]) == (200, b"version %d" % number, put.fields["etag"])
        assert any_site.head(f"{user}?version={number}").fields["content-length"] == "9"
        assert any_site.get(f"{user}?version={number}", {"Range": "bytes=8-"}).body == b"%d" % number
        assert any_site.get(f"{user}?version={number}", {"If-None-Match": put.fields["etag"]}).status == 304
        assert any_site.get(f"{user}?version={number}", {"If-Match": '"x"'}).status == 412
    _refusal(any_site.get(f"{user}?version=8"), 404, "version-not-found")


@pytest.mark.parametrize(
    "query", ["version=", "version=0", "version=-1", "version=x", "version=1.0", "version=1&version=1"]
)
def test_a_bad_version_is_refused(site: Site, query: str) -> None:
    _refusal(site.get(f"small?{query}"), 400, "bad-request")


@pytest.mark.parametrize("query", [f"version={2**63 - 1}", "version=2", "version=%32"])
def test_an_unknown_version_is_not_found(any_site: Site, query: str) -> None:
    _refusal(any_site.get(f"small?{query}"), 404, "version-not-found")
    _refusal(any_site.get(f"nobody?{query}"), 404, "report-not-found")


def test_the_versions_of_nobody_are_not_found(any_site: Site) -> None:
    _refusal(ask(any_site.server.port, "GET", "/api/report/nobody/versions"), 404, "report-not-found")
    _refusal(ask(any_site.server.port, "GET", "/api/report/a%20b/versions"), 400, "bad-user-id")


# -- out ---------------------------------------------------------------------------------------------------------------


def test_what_is_deleted_is_gone_with_its_versions_and_their_files(any_site: Site, user: str) -> None:
    before = any_site.files()
    for number in range(3):
        any_site.put(user, b"%d" % number)
    assert len(any_site.files() - before) == 3
    gone = any_site.delete(user)
    assert (gone.status, gone.body) == (204, b"")
    assert not {"content-type", "content-length"} & set(gone.fields)
    assert any_site.files() == before
    _refusal(any_site.get(user), 404, "report-not-found")
    _refusal(any_site.get(f"{user}?version=3"), 404, "report-not-found")
    _refusal(any_site.delete(user), 404, "report-not-found")
    assert any_site.put(user, b"again").status == 201
