"""What all peers stand on in a run: a private MariaDB, the demo data, and folders that go with the run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from app.reports.demo import demo_reports
from tests import processes
from tests.bench.process_group import held_interrupts
from tests.mariadb import MariaDb, environment

USER = "test-user"

_BLOCK_BYTES = 1_000_000
_SPARE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Ground:
    """work: kept between runs, for what peers are built of. folder: goes with the run, for logs.

    mysql_data, sqlite_data: Sluice's data folders, with the demo data. server: the MariaDB; database: the
    variables that reach it. listed_data, listed: the same, of a database that `add_rows` makes large. report: the
    bytes of USER's report.
    """

    work: Path
    folder: Path
    mysql_data: Path
    sqlite_data: Path
    server: MariaDb
    database: dict[str, str]
    listed_data: Path
    listed: dict[str, str]
    report: bytes

    @property
    def reports(self) -> Path:
        """The folder that the paths in MariaDB's rows are relative to."""
        return self.mysql_data / "reports"

    @property
    def database_version(self) -> str:
        return str(self.server.query("SELECT VERSION()")[0][0])

    def stored(self, user: str) -> Path:
        """The file of the user's report that MariaDB knows."""
        return self.stored_all()[user]

    def stored_all(self) -> dict[str, Path]:
        """Of all users."""
        rows = self.server.query("SELECT user_id, report_path FROM user_reports", database=self.database["DB_NAME"])
        return {user: self.reports / path for user, path in rows}

    def need_room(self, size: int) -> None:
        """*Errors*: RuntimeError where the folder has no room for ``size`` bytes and some more."""
        if shutil.disk_usage(self.folder).free < size + _SPARE_BYTES:
            raise RuntimeError(f"{self.folder} has no room for {size / 1e6:,.0f} MB")

    def add(self, user: str, size: int) -> None:
        """A report of ``size`` bytes, a multiple of 10⁶, stored in MariaDB by Sluice. *Errors*: RuntimeError."""
        self.need_room(2 * size)
        made = self.folder / f"{user}.bin"
        try:
            block = os.urandom(_BLOCK_BYTES)
            with made.open("wb") as file:
                for _ in range(size // _BLOCK_BYTES):
                    file.write(block)
            _command(self.mysql_data, self.database, "add", user, str(made))
        finally:
            made.unlink(missing_ok=True)

    def add_rows(self, rows: int) -> None:
        """So many in the database ``listed``: each a user's report with a path of its own, else as USER's."""
        name = self.listed["DB_NAME"]
        columns = [str(row[0]) for row in self.server.query("SHOW COLUMNS FROM user_reports", database=name)]
        there = self.server.query("SELECT COUNT(*) FROM user_reports", database=name)[0][0]
        given = {
            "user_id": "CONCAT('user-', LPAD(seq, 8, '0'))",
            "report_path": "CONCAT('none/', LPAD(seq, 8, '0'), '.pdf')",
        }
        values = ", ".join(given.get(column, column) for column in columns)
        self.server.query(
            f"INSERT INTO user_reports ({', '.join(columns)}) SELECT {values}"
            f" FROM seq_1_to_{rows - there} JOIN user_reports WHERE user_id = %s",
            (USER,),
            database=name,
        )


@contextmanager
def open_ground(work: Path) -> Generator[Ground]:
    # Not below the checkout: as root the database server is another user, who could not get there.
    with TemporaryDirectory(prefix="sluice-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("mariadb", "mysql", "sqlite", "listed"):
            (folder / part).mkdir()
        server = MariaDb(folder / "mariadb")
        try:
            server.start()
            database = environment(server.create_database())
            _load(folder / "mysql", database)
            _load(folder / "sqlite", {})
            listed = environment(server.create_database())
            _load(folder / "listed", listed)
            yield Ground(
                work=work,
                folder=folder,
                mysql_data=folder / "mysql",
                sqlite_data=folder / "sqlite",
                server=server,
                database=database,
                listed_data=folder / "listed",
                listed=listed,
                report=b"".join(next(report for report in demo_reports() if report.user_id == USER).make()),
            )
        finally:
            with held_interrupts():
                server.stop()


def _load(data: Path, database: dict[str, str]) -> None:
    _command(data, database, "migrate")
    _command(data, database, "demo")


def _command(data: Path, database: dict[str, str], *arguments: str) -> None:
    try:
        done = processes.run(data, *arguments, **database)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"python -m app {arguments[0]} did not end within {error.timeout} s") from error
    if done.returncode != 0:
        raise RuntimeError(f"python -m app {arguments[0]}: {done.stderr.strip()}")
