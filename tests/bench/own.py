"""Sluice, and parts of it, under the production command."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests import processes
from tests.bench.peer import COMPUTE_WORKERS, IO_THREADS, SOURCES, Server, ServerPeer
from tests.bench.process_group import has_ended, process_group, tail
from tests.mariadb import free_port

GRACE_MS = 1000  # of a task that is told to end
TASKS = "tests.bench.peers.tasks"

VIEW = "bench"
SOURCES_OF_VIEW = 3

_SOURCE_SECONDS = 0.02  # that each of them takes
_START_SECONDS = 20
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


class SluiceQuiet(Sluice):
    """Sluice on MariaDB without metrics and logs of requests."""

    name = "sluice-quiet"
    title = "Sluice without metrics and logs"
    app = "tests.bench.peers.sluice_quiet:app"


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


class SluiceAggregate(SluiceEmbedded):
    """Sluice with a view of sources on this machine, each of them slow."""

    name = "sluice-aggregate"
    title = "Sluice"

    @contextmanager
    def running(self) -> Generator[Server]:
        """With its sources."""
        self._ports = [free_port() for _ in range(SOURCES_OF_VIEW)]
        log = self.ground.folder / f"sources-{time.monotonic_ns()}.log"
        command = [processes.PYTHON, str(SOURCES / "slow_sources.py"), str(_SOURCE_SECONDS), *map(str, self._ports)]
        with log.open("wb") as output, process_group(command, self.ground.folder, output) as sources:
            deadline = time.monotonic() + _START_SECONDS
            while not all(map(_listens, self._ports)):
                if has_ended(sources) or time.monotonic() > deadline:
                    raise RuntimeError(f"the sources did not start:\n{tail(log)}")
                time.sleep(0.05)
            with super().running() as server:
                yield server

    def environment(self, port: int) -> dict[str, str]:
        configuration = self.ground.folder / "aggregate.toml"
        lines = [f"[aggregate.{VIEW}]"]
        for number, source in enumerate(self._ports):
            lines += [f"[aggregate.{VIEW}.sources.s{number}]", f'url = "http://127.0.0.1:{source}/{{id}}"']
            lines += ["allow_private = true", "breaker = {}", "retries = 1"]
        configuration.write_text("\n".join(lines))
        return super().environment(port) | {"SLUICE_CONFIG": str(configuration)}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def own_versions(*names: str) -> dict[str, str]:
    """Of Python, and of these packages of the project's environment."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
