"""``/api/report/{user_id}?step=…``: a stored report, run through steps on its way out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.exchange import Answer, ask
from tests.faults.traffic import wait_until
from tests.reports.conftest import REPORT, Site


def _get(site: Site, user: str, query: str, fields: dict[str, str] | None = None, method: str = "GET") -> Answer:
    return ask(site.server.port, method, f"/api/report/{user}?{query}", fields or {})


def _open_reports(site: Site) -> int:
    ask(site.server.port, "GET", "/readyz", {})  # by which files that nobody asked for lately are closed
    found = 0
    for entry in Path(f"/proc/{site.server.pid}/fd").iterdir():
        try:
            found += entry.readlink().is_relative_to(site.reports)
        except FileNotFoundError:
            continue
    return found


def test_a_report_goes_through_the_steps(any_site: Site) -> None:
    packed = _get(any_site, "ada", "step=sha256&step=gzip")
    assert packed.status == 200
    assert gzip.decompress(packed.body) == REPORT
    assert packed.fields["content-type"] == "application/pdf"
    assert packed.fields["content-encoding"] == "gzip"
    assert packed.fields["accept-ranges"] == "none"
    assert packed.fields["content-disposition"] == 'inline; filename="report-ada.pdf"'


def test_what_comes_out_is_named_by_what_it_is(any_site: Site) -> None:
    upper = _get(any_site, "small", "step=upper")
    assert (upper.body, upper.fields["content-type"]) == (b"0123456789", "text/plain; charset=utf-8")
    records = _get(any_site, "empty", "step=csv-to-ndjson&step=select:a")
    assert (records.status, records.body, records.fields["content-type"]) == (200, b"", "application/x-ndjson")
    assert records.fields["content-disposition"].endswith('.ndjson"')


def test_a_version_can_be_named_beside_the_steps(any_site: Site) -> None:
    assert _get(any_site, "small", "version=1&step=upper").body == b"0123456789"
    assert _get(any_site, "small", "version=9&step=upper").status == 404


def test_it_is_another_representation_with_conditions_of_its_own(any_site: Site) -> None:
    plain, upper, lower = (_get(any_site, "small", query).fields["etag"] for query in ("", "step=upper", "step=lower"))
    assert len({plain, upper, lower}) == 3
    assert _get(any_site, "small", "step=upper", {"If-None-Match": upper}).status == 304
    assert _get(any_site, "small", "step=upper", {"If-None-Match": plain}).status == 200
    assert _get(any_site, "small", "step=upper", {"If-Match": plain}).status == 412
    assert _get(any_site, "small", "step=upper", {"Range": "bytes=0-1"}).body == b"0123456789"


def test_a_head_says_the_same_and_runs_nothing(any_site: Site) -> None:
    got, head = (_get(any_site, "small", "step=upper", method=method) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    for name in ("content-type", "etag", "content-disposition", "last-modified"):
        assert head.fields[name] == got.fields[name]


@pytest.mark.parametrize(
    ("user", "query", "words"),
    [
        ("ada", "step=select:a", "select, wants ndjson; the body gives bytes"),
        ("ada", "step=upper", "byte"),
        ("small", "step=shout", "'shout'"),
        ("small", "step=", "''"),
    ],
)
def test_what_cannot_be_is_refused(any_site: Site, user: str, query: str, words: str) -> None:
    answer = _get(any_site, user, query)
    assert answer.status == 400
    assert words in answer.problem["detail"]


def test_the_file_is_given_back_however_it_ends(any_site: Site) -> None:
    """(A file that was used lately stays open for the next one: there is one of each at most.)"""
    for _ in range(20):
        _get(any_site, "ada", "step=gzip")
        _get(any_site, "ada", "step=select:a")
        _get(any_site, "ada", "step=gzip", method="HEAD")
    wait_until(lambda: _open_reports(any_site) <= 4, "no more files are open than are kept")
