"""The peers that there are: what each is built of, and how it is started."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests import processes
from tests.bench.peer import Peer, once
from tests.bench.process_group import run_to_end

_SOURCES = Path(__file__).parent / "peers"
_BUILD_SECONDS = 300
_IO_THREADS = "8"  # for reading files, the same for each peer that has such a setting


class Express(Peer):
    """The original: Express, mysql2, the file read whole."""

    name = "express"
    title = "Express + mysql2"

    @property
    def _built(self) -> Path:
        return self.ground.work / "express"

    @property
    def folder(self) -> Path:
        return self.ground.reports

    def build(self) -> None:
        self._built.mkdir(parents=True, exist_ok=True)
        for source in (_SOURCES / "express").iterdir():
            if source.is_file():
                shutil.copy(source, self._built)
        with once(self._built, self._built / "package-lock.json") as needed:
            if needed:
                command = ["npm", "ci", "--no-audit", "--no-fund"]
                run_to_end(command, self._built, self._built / "build.log", _BUILD_SECONDS)

    def command(self, port: int) -> list[str]:
        return ["node", str(self._built / "server.js")]

    def environment(self, port: int) -> dict[str, str]:
        settings = {"PORT": str(port), "NODE_ENV": "production", "UV_THREADPOOL_SIZE": _IO_THREADS}
        return dict(os.environ) | self.ground.database | settings

    def versions(self) -> dict[str, str]:
        modules = {name: self._built / "node_modules" / name / "package.json" for name in ("express", "mysql2")}
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        found = {name: str(json.loads(path.read_text())["version"]) for name, path in modules.items()}
        return {"node": node.strip().lstrip("v")} | found


class FastApi(Peer):
    """FastAPI on uvicorn with uvloop and httptools, asyncmy."""

    name = "fastapi"
    title = "FastAPI + uvicorn + asyncmy"

    @property
    def _built(self) -> Path:
        return self.ground.work / "fastapi"

    @property
    def folder(self) -> Path:
        return self.ground.reports

    def build(self) -> None:
        requirements = _SOURCES / "requirements.txt"
        self._built.mkdir(parents=True, exist_ok=True)
        with once(self._built, requirements) as needed:
            if needed:
                log, made = self._built / "build.log", str(self._built / "venv")
                run_to_end([sys.executable, "-m", "venv", "--clear", made], self._built, log, _BUILD_SECONDS)
                # The environment's own pip: nothing can end up in another environment than this one.
                pip = [f"{made}/bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
                run_to_end([*pip, "-r", str(requirements)], self._built, log, _BUILD_SECONDS)

    def command(self, port: int) -> list[str]:
        command = [str(self._built / "venv/bin/python"), "-m", "uvicorn", "--app-dir", str(_SOURCES)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
        return [*command, "--no-access-log", "--log-level", "warning", "fastapi_app:app"]

    def environment(self, port: int) -> dict[str, str]:
        return dict(os.environ) | self.ground.database

    def versions(self) -> dict[str, str]:
        pinned = dict(line.split("==") for line in (_SOURCES / "requirements.txt").read_text().split())
        return {name: pinned[name] for name in ("fastapi", "uvicorn", "asyncmy", "uvloop", "httptools")}


class Sluice(Peer):
    """Sluice under the production command, on MariaDB."""

    name = "sluice-mysql"
    title = "Sluice on MariaDB"

    @property
    def folder(self) -> Path:
        return self.ground.mysql_data

    def build(self) -> None:
        """`make setup` did."""

    def command(self, port: int) -> list[str]:
        return [*processes.HYPERCORN, "-w", "1"]

    def environment(self, port: int) -> dict[str, str]:
        given = {"PORT": str(port), "SLUICE_IO_THREADS": _IO_THREADS}
        return processes.command_environment(self.folder, given | self._database())

    def _database(self) -> dict[str, str]:
        return self.ground.database

    def versions(self) -> dict[str, str]:
        names = ("sluice-server", "trio", "hypercorn", "quart", "quart-trio", "trio-mysql")
        return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


class SluiceEmbedded(Sluice):
    """Sluice under the production command, on SQLite."""

    name = "sluice-sqlite"
    title = "Sluice on SQLite"

    @property
    def folder(self) -> Path:
        return self.ground.sqlite_data

    def _database(self) -> dict[str, str]:
        return {}


PEERS: dict[str, type[Peer]] = {kind.name: kind for kind in (Express, FastApi, Sluice, SluiceEmbedded)}
