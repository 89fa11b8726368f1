"""``add``, ``demo`` and ``migrate``, as an operator runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from app.storage.schema import HEAD
from tests.faults.traffic import RawClient
from tests.processes import run, running


def _only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a command that failed."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("sluice: ")
    return line


def _download(port: int, user: str) -> tuple[dict[str, str], bytes]:
    with RawClient(port) as client:
        client.get(f"/api/report/{user}")
        head = client.read_head()
        return head.fields, client.read(int(head.fields["content-length"]))


def test_migrate_is_safe_to_repeat(folder: Path) -> None:
    done = run(folder, "migrate")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"schema {HEAD}\n", "")


def test_demo_is_safe_to_repeat_and_stores_nothing_twice(folder: Path) -> None:
    before = sorted(path for path in (folder / "reports").rglob("*"))
    done = run(folder, "demo", "--large", "8MiB")
    assert (done.returncode, done.stderr) == (0, "")
    assert "test-user: " in done.stdout
    assert sorted(path for path in (folder / "reports").rglob("*")) == before


def test_what_is_added_while_the_server_runs_is_served_at_once_and_the_newest_counts(folder: Path) -> None:
    (folder / "one.txt").write_bytes(b"one")
    (folder / "two.bin").write_bytes(b"%PDF-1.7 two")
    with running(folder) as server:
        assert "version 1, 3 bytes, text/plain" in run(folder, "add", "somebody", "one.txt").stdout
        fields, body = _download(server.port, "somebody")
        assert (fields["content-type"].partition(";")[0], body) == ("text/plain", b"one")
        done = run(folder, "add", "somebody", "two.bin", "--type", "application/x-two")
        newer, body = _download(server.port, "somebody")
        assert (newer["content-type"], body) == ("application/x-two", b"%PDF-1.7 two")
        assert newer["etag"] != fields["etag"]
        assert "version 2, 12 bytes, application/x-two" in done.stdout
        assert newer["etag"] in done.stdout


def test_a_download_that_runs_keeps_its_version_while_a_newer_is_added(folder: Path) -> None:
    (folder / "new").write_bytes(b"new")
    with running(folder) as server, RawClient(server.port) as client:
        client.get("/api/report/large-report")
        size = int(client.read_head().fields["content-length"])
        assert run(folder, "add", "large-report", "new").returncode == 0
        assert _download(server.port, "large-report")[1] == b"new"
        assert len(client.read(size)) == size


@pytest.mark.parametrize(
    ("user", "file", "expected"),
    [
        ("somebody", "missing.pdf", "missing.pdf: No such file"),
        ("somebody", "reports", "reports: Is a directory"),
        ("../etc", "sluice.db", "user id '../etc'"),
    ],
)
def test_what_cannot_be_added_is_said_in_one_line(user: str, file: str, expected: str, folder: Path) -> None:
    assert expected in _only_line(run(folder, "add", user, file))


@pytest.mark.parametrize("arguments", [["add", "ada", "sluice.db", "--type", "no type"], ["demo", "--large", "big"]])
def test_arguments_that_are_not_understood_end_with_2(arguments: list[str], folder: Path) -> None:
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["add", "ada", "file"], ["demo"]])
def test_a_command_without_a_schema_says_what_to_do(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert "python -m app migrate" in _only_line(run(tmp_path, *arguments))


def test_migrate_of_a_database_that_is_away_is_one_line(tmp_path: Path) -> None:
    variables = {"DB_HOST": "127.0.0.1", "DB_PORT": "1", "DB_USER": "sluice", "DB_NAME": "sluice"}
    assert "cannot be migrated" in _only_line(run(tmp_path, "migrate", **variables))


def test_migrate_into_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "cannot be migrated" in _only_line(run(tmp_path, "migrate", SLUICE_DATA_DIR=f"{tmp_path}/file/data"))
