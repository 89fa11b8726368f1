"""Stores with demo data, made once by the real commands."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.settings import DatabaseSettings
from tests.mariadb import MariaDb, environment
from tests.processes import run

LARGE_MIB = 8


@dataclass(frozen=True)
class Store:
    """A data folder with demo data, one large report among it, and the variables that name its database."""

    folder: Path
    database: DatabaseSettings
    environment: dict[str, str]


def _fill(folder: Path, variables: dict[str, str]) -> None:
    for command in (["migrate"], ["demo", "--large", f"{LARGE_MIB}MiB"]):
        done = run(folder, *command, **variables)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def embedded_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    _fill(folder, {})
    return folder


@pytest.fixture
def folder(embedded_template: Path, tmp_path: Path) -> Path:
    """A data folder of the test's own, with the embedded database."""
    return Path(shutil.copytree(embedded_template, tmp_path / "data"))


@pytest.fixture(scope="session")
def mysql_store(mariadb: MariaDb, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Reports whose rows are in MariaDB; shared by tests, which do not change them."""
    folder = tmp_path_factory.mktemp("mysql")
    settings = mariadb.create_database()
    _fill(folder, environment(settings))
    return Store(folder, settings, environment(settings))
