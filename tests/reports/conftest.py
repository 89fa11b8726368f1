"""A real server whose reports are known byte by byte, over each kind of database."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from app.compose import open_stores
from app.settings import Settings, load_settings
from app.storage.migrate import migrate
from tests.chunks import chunked
from tests.exchange import Answer, Fields, ask
from tests.mariadb import MariaDb, environment
from tests.processes import SluiceProcess, running

REPORT = b"%PDF-1.7\n" + random.Random(1).randbytes(300_000)
"""The bytes of ``ada``, ``adopted`` and ``absolute``: some chunks, and a rest."""

ADOPTED_MODIFIED = 1_700_000_000
"""When the file of ``adopted`` was written, in seconds since the epoch."""

UNREADABLE = {
    "gone": "missing/file.pdf",
    "outside": "../secret.pdf",
    "system": "/etc/passwd",
    "linked": "link-to-outside.pdf",
    "fifo": "named-pipe",
    "folder": "",
    "nul": "a\0b",
    "long": "x" * 900,
}
"""Users whose rows name what cannot be read, with those paths."""

_STORED = {
    "ada": (REPORT, "application/pdf"),
    "small": (b"0123456789", "text/plain"),
    "empty": (b"", "text/csv"),
    "page": (b"<script>alert(1)</script>", "text/html"),
    "A.b_c@d-9": (b"odd", "application/pdf"),
    "x" * 128: (b"long", "application/pdf"),
}


@dataclass(frozen=True)
class Site:
    """A server with reports, and the folder that they are in."""

    server: SluiceProcess
    reports: Path

    def get(self, user: str, fields: Fields = ()) -> Answer:
        return ask(self.server.port, "GET", f"/api/report/{user}", fields)

    def put(self, user: str, body: bytes, fields: Fields = ()) -> Answer:
        return ask(self.server.port, "PUT", f"/api/report/{user}", fields, body)

    def delete(self, user: str, fields: Fields = ()) -> Answer:
        return ask(self.server.port, "DELETE", f"/api/report/{user}", fields)

    def files(self) -> set[str]:
        """What is in the reports folder."""
        return {str(path.relative_to(self.reports)) for path in self.reports.rglob("*") if path.is_file()}

    def head(self, user: str, fields: Fields = ()) -> Answer:
        return ask(self.server.port, "HEAD", f"/api/report/{user}", fields)


async def _fill(settings: Settings) -> None:
    folder = settings.reports.directory
    adopted = {"adopted": "old/adopted.pdf", "absolute": str((folder / "old" / "adopted.pdf").absolute())}
    async with open_stores(settings) as stores:
        for user, (data, kind) in _STORED.items():
            await stores.reports.store(user, chunked(data), kind)
        for user, path in (adopted | UNREADABLE).items():
            await stores.database.execute("INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)", (user, path))
    (folder / "old").mkdir()
    (folder / "old" / "adopted.pdf").write_bytes(REPORT)
    os.utime(folder / "old" / "adopted.pdf", (ADOPTED_MODIFIED, ADOPTED_MODIFIED))
    (folder.parent / "secret.pdf").write_bytes(b"secret")
    (folder / "link-to-outside.pdf").symlink_to("../secret.pdf")
    os.mkfifo(folder / "named-pipe")


def _serve(folder: Path, variables: dict[str, str]) -> Iterator[Site]:
    settings = load_settings({"SLUICE_DATA_DIR": str(folder), **variables})
    migrate(settings.database)
    trio.run(_fill, settings)
    with running(folder, None, workers=1, **variables) as server:
        yield Site(server, settings.reports.directory)


@pytest.fixture(scope="package")
def embedded_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from _serve(tmp_path_factory.mktemp("embedded"), {})


@pytest.fixture(scope="package")
def mysql_site(mariadb: MariaDb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from _serve(tmp_path_factory.mktemp("mysql"), environment(mariadb.create_database()))


@pytest.fixture
def site(embedded_site: Site) -> Site:
    return embedded_site


@pytest.fixture(params=["embedded_site", "mysql_site"])
def any_site(request: pytest.FixtureRequest) -> Site:
    """Each kind of database in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def fresh_site(tmp_path: Path) -> Iterator[Site]:
    """One of the test's own, which it may change."""
    yield from _serve(tmp_path, {})


@pytest.fixture
def limited_site(tmp_path: Path) -> Iterator[Site]:
    """One that takes 100,000 bytes at most."""
    yield from _serve(tmp_path, {"SLUICE_MAX_UPLOAD": "100000"})
