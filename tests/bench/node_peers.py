"""The peers that run on Node: what each is built of, and how it is started."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tests.bench.peer import COMPUTE_WORKERS, IO_THREADS, SOURCES, ServerPeer, once, told
from tests.bench.process_group import run_to_end

_BUILD_SECONDS = 300


class _OnNode(ServerPeer):
    """``server.js`` in the folder of its name, with the packages of its lock file."""

    packages: tuple[str, ...]

    @property
    def _built(self) -> Path:
        return self.ground.work / self.name

    @property
    def folder(self) -> Path:
        return self._built

    def build(self) -> None:
        self._built.mkdir(parents=True, exist_ok=True)
        for source in (SOURCES / self.name).iterdir():
            if source.is_file():
                shutil.copy(source, self._built)
        with once(self._built, self._built / "package-lock.json") as needed:
            if needed:
                command = ["npm", "ci", "--no-audit", "--no-fund"]
                run_to_end(command, self._built, self._built / "build.log", _BUILD_SECONDS)

    def command(self, port: int) -> list[str]:
        return ["node", str(self._built / "server.js")]

    def environment(self, port: int) -> dict[str, str]:
        return dict(os.environ) | {"PORT": str(port), "NODE_ENV": "production"}

    def versions(self) -> dict[str, str]:
        modules = {name: self._built / "node_modules" / name / "package.json" for name in self.packages}
        found = {name: str(json.loads(path.read_text())["version"]) for name, path in modules.items()}
        return {"node": told(["node", "--version"]).lstrip("v")} | found


class Express(_OnNode):
    """The original: Express, mysql2, the file read whole."""

    name = "express"
    title = "Express + mysql2"
    packages = ("express", "mysql2")

    @property
    def folder(self) -> Path:
        return self.ground.reports

    def environment(self, port: int) -> dict[str, str]:
        return super().environment(port) | self.ground.database | {"UV_THREADPOOL_SIZE": IO_THREADS}


class ExpressPiscina(_OnNode):
    """The original's computation on Piscina's threads."""

    name = "express-piscina"
    title = "Express + Piscina"
    packages = ("express", "piscina")

    def environment(self, port: int) -> dict[str, str]:
        return super().environment(port) | {"WORKERS": str(COMPUTE_WORKERS)}


class NodeHub(_OnNode):
    """Server-sent events by Node's own ``http``, from memory."""

    name = "node-hub"
    title = "a hub on Node"
    packages = ()

    def build(self) -> None:
        self._built.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCES / self.name / "server.js", self._built)
