"""Media types and file names of reports."""

from __future__ import annotations

import mimetypes
import re

import pytest

from app.http.media import content_disposition, extension_of, is_media_type, media_type_of


@pytest.mark.parametrize(
    ("media_type", "disposition"),
    [
        ("application/pdf", 'inline; filename="report-bob.pdf"'),
        ("application/json", 'inline; filename="report-bob.json"'),
        ("application/x-ndjson", 'inline; filename="report-bob.ndjson"'),
        ("text/plain; charset=utf-8", 'inline; filename="report-bob.txt"'),
        ("text/csv", 'inline; filename="report-bob.csv"'),
        ("image/png", 'inline; filename="report-bob.png"'),
        ("Application/PDF", 'inline; filename="report-bob.pdf"'),
        ("application/zip", 'attachment; filename="report-bob.zip"'),
        ("application/octet-stream", 'attachment; filename="report-bob.bin"'),
        ("application/x-unheard-of", 'attachment; filename="report-bob.bin"'),
        ("", 'attachment; filename="report-bob.bin"'),
    ],
)
def test_a_report_is_named_after_its_user_and_type(media_type: str, disposition: str) -> None:
    assert content_disposition("bob", media_type) == disposition


@pytest.mark.parametrize(
    "media_type",
    [
        "text/html",
        "TEXT/HTML; charset=utf-8",
        " text/html",
        "image/svg+xml",
        "application/xhtml+xml",
        "text/xml",
        "text/javascript",
        "application/pdfx",
        "x-application/pdf",
    ],
)
def test_what_could_run_script_is_an_attachment(media_type: str) -> None:
    assert content_disposition("bob", media_type).startswith("attachment;")


@pytest.mark.parametrize(
    "user_id", ["a.b_c-d@e", 'x"; filename="evil.exe', "x\r\nSet-Cookie: a=b", "../../etc/passwd", "naïve", "a b\\c;d"]
)
def test_no_user_id_leaves_the_quotes_or_names_a_folder(user_id: str) -> None:
    assert re.fullmatch(
        r'inline; filename="report-[A-Za-z0-9._@-]*\.pdf"', content_disposition(user_id, "application/pdf")
    )


def test_the_name_ends_with_the_extension_of_the_type_whatever_the_user_is_called() -> None:
    assert content_disposition("setup.exe", "application/pdf") == 'inline; filename="report-setup.exe.pdf"'


@pytest.mark.parametrize(
    ("name", "head", "media_type"),
    [
        ("a.pdf", b"", "application/pdf"),
        ("a.PDF", b"", "application/pdf"),
        ("folder.csv/a.json", b"", "application/json"),
        ("a.csv", b"%PDF-1.7", "text/csv"),
        ("a", b"%PDF-1.7", "application/pdf"),
        ("", b"%PDF-", "application/pdf"),
        ("a", b"%PDF", "application/octet-stream"),
        ("a", b" %PDF-1.7", "application/octet-stream"),
        ("a", b"", "application/octet-stream"),
        ("a.unheard-of", b"<html>", "application/octet-stream"),
        ("a.pdf.gz", b"\x1f\x8b", "application/octet-stream"),
    ],
)
def test_the_type_of_a_file_is_what_its_name_says_or_else_its_first_bytes(
    name: str, head: bytes, media_type: str
) -> None:
    assert media_type_of(name, head) == media_type


def test_what_the_machine_knows_of_types_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known = mimetypes.MimeTypes()
    known.add_type("application/x-of-this-machine", ".pdf")
    monkeypatch.setattr(mimetypes, "_db", known)
    assert mimetypes.guess_type("a.pdf")[0] == "application/x-of-this-machine"
    assert media_type_of("a.pdf", b"") == "application/pdf"
    assert extension_of("application/x-of-this-machine") == ".bin"


# -- what a media type is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "application/pdf",
        "Text/Plain; charset=utf-8",
        'text/plain;charset="utf-8"',
        'a/b;c="d\\"e;f"',
        "a/b;",
        "a/b ; ;c=d",
        "application/vnd.a+json",
        "multipart/form-data; boundary=--x",
        "x" * 63 + "/" + "y" * 63,
    ],
)
def test_media_types_are_told(text: str) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pdf",
        "/",
        "a/",
        "/b",
        "a/b/c",
        "a b/c",
        "a/b c",
        "a/b;c",
        "a/b;c=",
        'a/b;c="',
        "a/b;c=d e",
        "a/b, c/d",
        "a/b;c=é",
        "a/b\n",
        " a/b",
        "x" * 64 + "/" + "y" * 63,
    ],
)
def test_what_is_none_is_told_too(text: str) -> None:
    assert not is_media_type(text)
