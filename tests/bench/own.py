"""Sluice, and parts of it, under the production command."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

from tests import processes
from tests.bench.peer import COMPUTE_WORKERS, IO_THREADS, ServerPeer

GRACE_MS = 1000  # of a task that is told to end
TASKS = "tests.bench.peers.tasks"

_MAX_UPLOAD = "1TiB"  # 10 GB in one body are more than the default


class Sluice(ServerPeer):
    """Sluice under the production command, on MariaDB."""

    name = "sluice-mysql"
    title = "Sluice on MariaDB"
    app = processes.HYPERCORN[-1]

    @property
    def folder(self) -> Path:
        return self.ground.mysql_data

    def build(self) -> None:
        """`make setup` did."""

    def command(self, port: int) -> list[str]:
        return [*processes.HYPERCORN[:-1], "-w", "1", self.app]

    def environment(self, port: int) -> dict[str, str]:
        given = {"PORT": str(port), "SLUICE_IO_THREADS": IO_THREADS, "SLUICE_MAX_UPLOAD": _MAX_UPLOAD}
        return processes.command_environment(self.folder, given | self._database())

    def _database(self) -> dict[str, str]:
        return self.ground.database

    def versions(self) -> dict[str, str]:
        return own_versions("sluice-server", "trio", "hypercorn", "quart", "quart-trio", "trio-mysql")


class SluiceListing(Sluice):
    """Sluice on the database of many rows."""

    name = "sluice-listing"
    title = "Sluice on MariaDB, many reports"

    @property
    def folder(self) -> Path:
        return self.ground.listed_data

    def _database(self) -> dict[str, str]:
        return self.ground.listed


class SluiceEmbedded(Sluice):
    """Sluice under the production command, on SQLite."""

    name = "sluice-sqlite"
    title = "Sluice on SQLite"

    @property
    def folder(self) -> Path:
        return self.ground.sqlite_data

    def _database(self) -> dict[str, str]:
        return {}


class SluiceRaw(SluiceEmbedded):
    """A raw ASGI application on Sluice's wire."""

    name = "sluice-raw"
    title = "Sluice's wire"
    app = "tests.bench.peers.sluice_raw:app"


class SluiceRoute(SluiceEmbedded):
    """Routes of the benchmark's within Sluice."""

    name = "sluice-route"
    title = "Quart-Trio in Sluice"
    app = "tests.bench.peers.sluice_routes:app"


class SluiceCompute(SluiceEmbedded):
    """Sluice with as many workers as its peer, room for whoever waits there, and the benchmark's own tasks."""

    name = "sluice-compute"
    title = "Sluice"

    def environment(self, port: int) -> dict[str, str]:
        configuration = self.ground.folder / "compute.toml"
        configuration.write_text(f"[tasks]\nmodules = [{json.dumps(TASKS)}]\n")
        given = {
            "SLUICE_CONFIG": str(configuration),
            "SLUICE_COMPUTE_WORKERS": str(COMPUTE_WORKERS),
            "SLUICE_COMPUTE_QUEUE": "256",
            "SLUICE_TASK_GRACE": f"{GRACE_MS}ms",
        }
        return super().environment(port) | given


def own_versions(*names: str) -> dict[str, str]:
    """Of Python, and of these packages of the project's environment."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
