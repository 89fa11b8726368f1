"""A private MariaDB: in a temporary folder, on a free port, ended with the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pymysql
import trustme

from app.settings import DatabaseSettings

_START_SECONDS = 60
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MariaDb:
    """One server; `start` and `stop` may be called again, the port and the data stay."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.ca = folder / "ca.pem"
        self._folder = folder
        self._data = folder / "data"
        self._socket = folder / "sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._install()

    def _install(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_pem.write_to_path(self._folder / "key.pem")
        for index, pem in enumerate(certificate.cert_chain_pems):
            pem.write_to_path(self._folder / "cert.pem", append=index > 0)
        if os.getuid() == 0:  # then the server is another user, who has to get here
            self._folder.chmod(0o755)
            for path in (self._folder, *self._folder.glob("*.pem")):
                shutil.chown(path, "mysql")
        command = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={self._data}", "--skip-test-db"]
        command += ["--auth-root-authentication-method=normal", *self._user()]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stdout.decode(errors="replace")[-2000:])

    def _user(self) -> list[str]:
        return ["--user=mysql"] if os.getuid() == 0 else []

    def start(self) -> None:
        """Returns when it answers."""
        command = [_program("mariadbd"), "--no-defaults", f"--datadir={self._data}", f"--socket={self._socket}"]
        command += [f"--port={self.port}", "--bind-address=127.0.0.1", "--max-connections=200", *self._user()]
        command += [f"--ssl-ca={self.ca}", f"--ssl-cert={self._folder}/cert.pem", f"--ssl-key={self._folder}/key.pem"]
        command += ["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=2", "--skip-name-resolve"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self._socket))
            return bool(probe.recv(1))
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_START_SECONDS)
            self._process = None

    def connect(self, database: str | None = None) -> pymysql.Connection[Any]:
        """A blocking connection as root, for looking from outside; the caller closes it."""
        return pymysql.connect(unix_socket=str(self._socket), user="root", database=database, autocommit=True)

    def query(
        self, sql: str, parameters: Sequence[object] = (), *, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    def status(self, name: str) -> int:
        """One of the server's own counters."""
        return int(self.query("SHOW GLOBAL STATUS LIKE %s", (name,))[0][1])

    def processes(self, like: str) -> list[int]:
        """The ids of connections whose running statement is LIKE that."""
        sql = "SELECT id FROM information_schema.processlist WHERE info LIKE %s AND id <> CONNECTION_ID()"
        return [row[0] for row in self.query(sql, (like,))]

    def create_database(self, *, pool: int = 20) -> DatabaseSettings:
        """A new, empty database and a user of its own; with settings that reach it."""
        self._databases += 1
        name = f"test{self._databases}"
        self.query(f"CREATE DATABASE {name}")
        self.query(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'secret-{name}'")
        self.query(f"GRANT ALL ON {name}.* TO '{name}'@'%'")
        return DatabaseSettings("127.0.0.1", self.port, name, f"secret-{name}", name, None, pool, Path("unused"))


@contextmanager
def running_mariadb() -> Generator[MariaDb]:
    """A server that answers, stopped and removed at the end."""
    # Not below pytest's own folder, which only its user may enter.
    with TemporaryDirectory(prefix="sluice-mariadb-") as folder:
        server = MariaDb(Path(folder))
        server.start()
        yield server
        server.stop()


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise RuntimeError(f"{name} is not installed: `make services` installs it")
    return found


def environment(settings: DatabaseSettings) -> dict[str, str]:
    """The variables by which a process of Sluice reaches that database."""
    return {
        "DB_HOST": settings.host or "",
        "DB_PORT": str(settings.port),
        "DB_USER": settings.user,
        "DB_PASS": settings.password,
        "DB_NAME": settings.name,
        "SLUICE_DB_POOL": str(settings.pool),
    }
