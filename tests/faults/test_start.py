"""Starts that cannot go on say why in a line of words each, without traceback, and end by themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Store
from tests.faults.traffic import wait_until
from tests.mariadb import MariaDb, free_port
from tests.processes import HYPERCORN, PYTHON, SERVE, command_environment, run

_SECONDS = 40


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def _away() -> dict[str, str]:
    return {"DB_HOST": "127.0.0.1", "DB_PORT": str(free_port()), "DB_USER": "sluice", "DB_NAME": "sluice"}


def _hypercorn(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HYPERCORN, *arguments],
        env=command_environment(folder, extra),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def _reasons(stderr: str) -> list[str]:
    """What each line says: one of the log's, or one of words."""
    lines = stderr.splitlines()
    assert all(line.startswith(("{", "sluice: ")) for line in lines), stderr
    logged = [json.loads(line) if line.startswith("{") else {"reason": line} for line in lines]
    assert not [line for line in logged if "exception" in line]
    return [line["reason"] for line in logged]


def _only_reason(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    (reason,) = _reasons(done.stderr)
    return reason


def test_a_port_in_use(folder: Path, taken_port: int) -> None:
    reason = _only_reason(run(folder, "serve", PORT=str(taken_port)))
    assert f"127.0.0.1:{taken_port}" in reason
    assert "in use" in reason


def test_a_port_in_use_under_hypercorn(folder: Path, taken_port: int) -> None:
    (reason,) = _reasons(_hypercorn(folder, PORT=str(taken_port)).stderr)
    assert "in use" in reason


def test_a_host_that_is_not_ours(folder: Path) -> None:
    assert "192.0.2.1" in _only_reason(run(folder, "serve", HOST="192.0.2.1"))


def test_a_database_that_refuses_the_password(mysql_store: Store) -> None:
    variables = mysql_store.environment | {"DB_PASS": "wrong-secret"}
    reason = _only_reason(run(mysql_store.folder, "serve", **variables))
    assert "Access denied" in reason
    assert "wrong-secret" not in reason


def test_a_database_that_is_away(folder: Path) -> None:
    variables = _away()
    assert f"sluice@127.0.0.1:{variables['DB_PORT']}/sluice" in _only_reason(run(folder, "serve", **variables))


def test_a_database_that_is_away_is_said_at_most_once_by_each_worker_of_hypercorn(folder: Path) -> None:
    """The first that fails makes the master end the other, which may not have got that far."""
    done = _hypercorn(folder, "-w", "2", **_away())
    assert "Running on" not in done.stderr
    assert 1 <= len(_reasons(done.stderr)) <= 2


def test_a_reports_folder_that_cannot_be_made(folder: Path) -> None:
    (folder / "file").write_text("no folder")
    assert str(folder / "file" / "reports") in _only_reason(
        run(folder, "serve", SLUICE_REPORTS_DIR=f"{folder}/file/reports")
    )


def test_a_database_that_was_never_migrated(tmp_path: Path) -> None:
    assert "python -m app migrate" in _only_reason(run(tmp_path, "serve"))


@pytest.mark.parametrize(("version", "advice"), [("0000", "python -m app migrate"), ("9999", "update the program")])
def test_a_schema_of_another_version(version: str, advice: str, folder: Path) -> None:
    with sqlite3.connect(folder / "sluice.db") as connection:
        connection.execute("UPDATE sluice_schema SET version_num = ?", (version,))
    connection.close()
    reason = _only_reason(run(folder, "serve"))
    assert version in reason
    assert advice in reason


def test_all_bad_settings_at_once(folder: Path) -> None:
    bad = {"PORT": "http", "SLUICE_DRAIN_TIMEOUT": "-1", "SLUICE_DRIAN_DELAY": "1"}
    done = run(folder, "serve", **bad)
    assert done.returncode == 1
    reasons = _reasons(done.stderr)
    assert len(reasons) == 3
    assert all(any(name in reason for reason in reasons) for name in bad)
    assert "did you mean SLUICE_DRAIN_DELAY?" in done.stderr
    assert sorted(_reasons(_hypercorn(folder, **bad).stderr)) == sorted(reasons)


def test_check_says_what_it_found(mysql_store: Store) -> None:
    done = run(mysql_store.folder, "check", **mysql_store.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert mysql_store.environment["DB_PASS"] not in done.stdout
    assert f"database.name = {mysql_store.database.name}" in done.stdout
    assert done.stdout.splitlines()[-3:] == ["database: ok", "reports: ok", "tasks: ok"]


def test_check_says_all_that_is_wrong(folder: Path) -> None:
    (folder / "file").write_text("no folder")
    done = run(folder, "check", SLUICE_REPORTS_DIR=f"{folder}/file/reports", **_away())
    assert done.returncode == 1
    about_database, about_reports = _reasons(done.stderr)
    assert "the database " in about_database
    assert "the reports folder " in about_reports
    assert done.stdout.splitlines()[-3:] == ["database: failing", "reports: failing", "tasks: ok"]


def test_check_looks_into_the_modules_that_have_tasks(folder: Path) -> None:
    (folder / "broken.py").write_text("import nowhere\n")
    (folder / "empty.py").write_text("")
    (folder / "sluice.toml").write_text('[tasks]\nmodules = ["broken", "empty"]\n')
    done = run(folder, "check", SLUICE_CONFIG="sluice.toml", PYTHONPATH=str(folder))
    about_broken, about_empty = _reasons(done.stderr)
    assert "task module broken: cannot be imported: ModuleNotFoundError" in about_broken
    assert "task module empty: has no task in it" in about_empty
    assert "tasks.modules = ('broken', 'empty')" in done.stdout
    assert done.stdout.splitlines()[-1] == "tasks: failing"


def test_check_prints_nothing_but_words_of_its_own(folder: Path) -> None:
    """No line of a log among them, which is for standard error."""
    lines = run(folder, "check", **_away()).stdout.splitlines()
    assert [line for line in lines if " = " not in line] == ["database: failing", "reports: ok", "tasks: ok"]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_start_that_is_interrupted_while_the_database_does_not_answer(command: str, folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(_SECONDS)
        variables = _away() | {"DB_PORT": str(silent.getsockname()[1])}
        process = subprocess.Popen(
            [PYTHON, "-m", "app", command],
            env=command_environment(folder, variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process, silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=_SECONDS)
    assert "Traceback" not in stderr
    # A server that is told to end, and does, has not failed; a command that could not give its answer has.
    assert process.returncode == (0 if command == "serve" else 1)


@pytest.mark.parametrize("command", [SERVE, HYPERCORN], ids=["serve", "hypercorn"])
def test_a_start_that_is_interrupted_while_its_query_waits(
    command: list[str], mysql_store: Store, mariadb: MariaDb
) -> None:
    with mariadb.connect(mysql_store.database.name) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES sluice_schema WRITE")
        process = subprocess.Popen(
            command,
            env=command_environment(mysql_store.folder, mysql_store.environment),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                wait_until(lambda: mariadb.processes("%FROM sluice_schema%"), "it asks for the schema")
                os.killpg(process.pid, signal.SIGINT)
                _, stderr = process.communicate(timeout=_SECONDS / 2)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in stderr
    assert "Running on" not in stderr
