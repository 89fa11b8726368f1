"""The others: what each is built of, and how it is started."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from tests import processes
from tests.bench.peer import SOURCES, ServerPeer, once, told
from tests.bench.process_group import run_to_end

_BUILD_SECONDS = 300
_NGINX = shutil.which("nginx") or "/usr/sbin/nginx"  # often not on the PATH of a user


class _InPeersVenv(ServerPeer):
    """A program of the environment that the other Python peers share; the project's has none of their packages."""

    packages: tuple[str, ...]

    @property
    def _built(self) -> Path:
        return self.ground.work / "python"

    @property
    def _bin(self) -> Path:
        return self._built / "venv/bin"

    @property
    def folder(self) -> Path:
        return SOURCES

    def build(self) -> None:
        requirements = SOURCES / "requirements.txt"
        self._built.mkdir(parents=True, exist_ok=True)
        with once(self._built, requirements) as needed:
            if needed:
                log, made = self._built / "build.log", str(self._built / "venv")
                run_to_end([sys.executable, "-m", "venv", "--clear", made], self._built, log, _BUILD_SECONDS)
                # The environment's own pip: nothing can end up in another environment than this one.
                pip = [f"{made}/bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
                run_to_end([*pip, "-r", str(requirements)], self._built, log, _BUILD_SECONDS)

    def environment(self, port: int) -> dict[str, str]:
        return dict(os.environ) | {"PYTHONDONTWRITEBYTECODE": "1"}

    def versions(self) -> dict[str, str]:
        pinned = dict(line.split("==") for line in (SOURCES / "requirements.txt").read_text().split())
        return {name: pinned[name] for name in self.packages}


class Uvicorn(_InPeersVenv):
    """uvicorn with uvloop and httptools."""

    name = "uvicorn"
    title = "uvicorn (uvloop, httptools)"
    packages = ("uvicorn", "uvloop", "httptools")
    app = "raw_hello:app"
    lifespan = "off"

    def command(self, port: int) -> list[str]:
        command = [str(self._bin / "python"), "-m", "uvicorn", "--app-dir", str(SOURCES), "--lifespan", self.lifespan]
        command += ["--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
        return [*command, "--no-access-log", "--log-level", "warning", self.app]


class FastApi(Uvicorn):
    """FastAPI on it, with asyncmy."""

    name = "fastapi"
    title = "FastAPI + uvicorn + asyncmy"
    packages = ("fastapi", "uvicorn", "asyncmy", "uvloop", "httptools")
    app = "fastapi_app:app"
    lifespan = "on"

    @property
    def folder(self) -> Path:
        return self.ground.reports

    def environment(self, port: int) -> dict[str, str]:
        return super().environment(port) | self.ground.database


class Granian(_InPeersVenv):
    """granian, whose I/O is in Rust, on threads of its own."""

    name = "granian"
    title = "granian"
    packages = ("granian", "uvloop")

    def command(self, port: int) -> list[str]:
        command = [str(self._bin / "granian"), "--interface", "asginl", "--workers", "1", "--loop", "uvloop"]
        return [*command, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "raw_hello:app"]


class StockHypercorn(ServerPeer):
    """Hypercorn's Trio worker as it comes: Sluice's adapter is only there where an application has imported it."""

    name = "hypercorn"
    title = "Hypercorn, Trio worker"
    app = "tests.bench.peers.raw_hello:app"
    packages: tuple[str, ...] = ("hypercorn", "trio", "h11")

    @property
    def folder(self) -> Path:
        return self.ground.folder

    def build(self) -> None:
        """`make setup` did."""

    def command(self, port: int) -> list[str]:
        return [processes.HYPERCORN[0], "-k", "trio", "-w", "1", "-b", f"127.0.0.1:{port}", self.app]

    def environment(self, port: int) -> dict[str, str]:
        return dict(os.environ)

    def versions(self) -> dict[str, str]:
        return {"python": platform.python_version()} | {name: metadata.version(name) for name in self.packages}


class StockQuart(StockHypercorn):
    """Quart-Trio on it, as it comes."""

    name = "quart"
    title = "Quart-Trio on Hypercorn"
    app = "tests.bench.peers.stock_routes:app"
    packages = ("hypercorn", "trio", "h11", "quart", "quart-trio")


class Nginx(ServerPeer):
    """nginx, which serves the reports as static files."""

    name = "nginx"
    title = "nginx sendfile"

    @property
    def folder(self) -> Path:
        return self.ground.folder

    def build(self) -> None:
        """The distribution did."""

    def command(self, port: int) -> list[str]:
        configuration = self.folder / "nginx.conf"
        configuration.write_text(_nginx_configuration(self.folder, port, self.ground.stored_all()))
        return [_NGINX, "-e", "stderr", "-p", str(self.folder), "-c", str(configuration)]

    def environment(self, port: int) -> dict[str, str]:
        return dict(os.environ)

    def versions(self) -> dict[str, str]:
        return {"nginx": told([_NGINX, "-v"]).rpartition("/")[2]}


def _nginx_configuration(folder: Path, port: int, reports: dict[str, Path]) -> str:
    """``reports``: the file of each user's report."""
    # Only root may read what Sluice has stored as root.
    user = "user root;" if os.getuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"    {kind}_temp_path {folder}/nginx-{kind};" for kind in kinds)
    locations = "\n".join(
        f'        location = "/api/report/{name}" {{ alias "{path}"; }}' for name, path in reports.items()
    )
    return f"""\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    default_type application/pdf;
{temporary}
    server {{
        listen 127.0.0.1:{port};
{locations}
    }}
}}
"""
