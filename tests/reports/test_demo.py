"""The demo data: real documents, the same bytes wherever and whenever they are made."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import tracemalloc

import pytest
from pypdf import PdfReader

from app.reports.demo import DemoReport, demo_reports, large_report
from app.reports.user_ids import check_user_id

_DIGESTS = """
import json
from app.reports.demo import demo_reports, large_report
print(json.dumps([report.digest() for report in [*demo_reports(), large_report(300_000)]]))
"""
_MIB = 1024 * 1024


def _bytes(report: DemoReport) -> bytes:
    return b"".join(report.make())


@pytest.fixture(scope="module", params=demo_reports(), ids=lambda report: report.user_id)
def report(request: pytest.FixtureRequest) -> DemoReport:
    return request.param


def test_there_is_one_for_test_user_and_for_some_others() -> None:
    users = [report.user_id for report in demo_reports()]
    assert "test-user" in users
    assert len(set(users)) == len(users) > 1
    assert [check_user_id(user) for user in users] == users


def test_it_is_a_pdf_of_about_20_kb(report: DemoReport) -> None:
    assert report.media_type == "application/pdf"
    assert 15_000 < len(_bytes(report)) < 25_000


@pytest.mark.filterwarnings("default::DeprecationWarning")  # of the reader
def test_it_can_be_read_and_is_about_its_user(report: DemoReport) -> None:
    document = PdfReader(io.BytesIO(_bytes(report)), strict=True)
    assert len(document.pages) >= 6
    assert document.metadata is not None
    assert document.metadata.title == f"Report of {report.user_id}"
    assert report.user_id in document.pages[0].extract_text()
    assert all("station-" in page.extract_text() for page in document.pages[:6])


def test_users_have_reports_of_their_own() -> None:
    assert len({report.digest() for report in demo_reports()}) == len(demo_reports())


def test_it_has_the_same_bytes_in_another_process_at_another_time() -> None:
    def made_elsewhere(seed: str) -> list[str]:
        environment = {"PYTHONHASHSEED": seed, "TZ": "Asia/Kolkata"}
        done = subprocess.run([sys.executable, "-c", _DIGESTS], env=environment, capture_output=True, check=True)
        return json.loads(done.stdout)

    here = [report.digest() for report in [*demo_reports(), large_report(300_000)]]
    assert made_elsewhere("1") == made_elsewhere("2") == here


def test_its_digest_is_that_of_its_bytes(report: DemoReport) -> None:
    assert hashlib.sha256(_bytes(report)).hexdigest() == report.digest()


@pytest.mark.parametrize("size", [1, 31, 32, 1000, 200_000])
def test_a_large_report_has_the_size_that_was_asked_for_up_to_the_end_of_its_line(size: int) -> None:
    report = large_report(size)
    data = _bytes(report)
    assert (report.user_id, report.media_type) == ("large-report", "text/csv")
    assert data.endswith(b"\n")
    last_line = len(data) - data.rfind(b"\n", 0, -1) - 1
    assert size <= len(data) < size + last_line or data.count(b"\n") == 1


def test_a_large_report_is_csv_of_one_shape() -> None:
    header, *rows = csv.reader(io.StringIO(_bytes(large_report(500_000)).decode("ascii")))
    assert header == ["number", "time", "station", "value", "state"]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    assert {len(row) for row in rows} == {5}


def test_a_large_report_is_made_as_it_is_read() -> None:
    tracemalloc.start()
    try:
        for _ in large_report(3 * _MIB).make():
            pass
        assert tracemalloc.get_traced_memory()[1] < _MIB
    finally:
        tracemalloc.stop()
