"""What all peers stand on in a run: a private MariaDB, the demo data, and folders that go with the run."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Ground:
    """work: kept between runs, for what peers are built of. folder: goes with the run, for logs.

    mysql_data, sqlite_data: Sluice's data folders, with the demo data. database: the variables that reach MariaDB.
    report: the bytes of USER's report.
    """

    work: Path
    folder: Path
    mysql_data: Path
    sqlite_data: Path
    database: dict[str, str]
    database_version: str
    report: bytes

    @property
    def reports(self) -> Path:
        """The folder that the paths in MariaDB's rows are relative to."""
        return self.mysql_data / "reports"


@contextmanager
def open_ground(work: Path) -> Generator[Ground]:
    # Not below the checkout: as root the database server is another user, who could not get there.
    with TemporaryDirectory(prefix="sluice-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("mariadb", "mysql", "sqlite"):
            (folder / part).mkdir()
        server = MariaDb(folder / "mariadb")
        try:
            server.start()
            database = environment(server.create_database())
            _load(folder / "mysql", database)
            _load(folder / "sqlite", {})
            yield Ground(
                work=work,
                folder=folder,
                mysql_data=folder / "mysql",
                sqlite_data=folder / "sqlite",
                database=database,
                database_version=str(server.query("SELECT VERSION()")[0][0]),
                report=next(report for report in demo_reports() if report.user_id == USER).open().read(),
            )
        finally:
            with held_interrupts():
                server.stop()


def _load(data: Path, database: dict[str, str]) -> None:
    for command in ("migrate", "demo"):
        done = processes.run(data, command, **database)
        if done.returncode != 0:
            raise RuntimeError(f"python -m app {command}: {done.stderr.strip()}")
