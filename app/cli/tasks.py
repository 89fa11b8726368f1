"""``tasks``: what a running server is at, as its ``/debug/tasks`` says; on a terminal again and again, like top."""

from __future__ import annotations

import argparse
import http.client
import os
import select
import shutil
import ssl
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

from app.errors import StartError
from app.settings import ServerSettings, Settings

_PATH = "/debug/tasks"
_REFRESH_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a server listens on all
_CLEAR, _OTHER_SCREEN, _OWN_SCREEN = "\x1b[H\x1b[2J", "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def run(settings: Settings, parsed: argparse.Namespace) -> None:
    server = Asked(parsed.url or _own_url(settings.server))
    try:
        if parsed.once or not sys.stdout.isatty():
            sys.stdout.write(server.ask())
            sys.stdout.flush()
        else:
            _refresh(server)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    finally:
        server.close()


class Asked:
    """The server at ``url``, asked over one connection, so that of several workers it is the same that answers.

    *Errors*: StartError, in one line.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise StartError(f"--url: {url!r} is not allowed: {error}") from error
        if parts.scheme not in {"http", "https"} or not host:
            raise StartError(f"--url: {url!r} is not allowed: an http or https URL such as http://127.0.0.1:3000")
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=_ANSWER_SECONDS)
        self._path = parts.path.rstrip("/").removesuffix(_PATH) + _PATH

    def ask(self) -> str:
        try:
            return self._ask()
        except http.client.RemoteDisconnected:  # it was idle for too long, or the server was started anew
            self.close()
            return self._ask()

    def close(self) -> None:
        self._connection.close()

    def _ask(self) -> str:
        try:
            self._connection.request("GET", self._path, headers={"Accept": "text/plain"})
            answer = self._connection.getresponse()
            body = answer.read().decode("utf-8", "replace")
        except http.client.RemoteDisconnected:
            raise
        except ssl.SSLError as error:
            raise StartError(f"{self._url}: cannot be asked over TLS: {error.reason or error}") from error
        except OSError as error:
            raise StartError(f"{self._url}: no server answers there: {error.strerror or error}") from error
        except http.client.HTTPException as error:
            raise StartError(f"{self._url}: what answers there is no HTTP server: {error!r}") from error
        if answer.status != http.client.OK or not body.startswith("server sluice"):
            raise StartError(f"{self._url}: does not tell its tasks: {answer.status} {answer.reason}")
        return body


def _own_url(settings: ServerSettings) -> str:
    host = _ANY_HOST.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _refresh(server: Asked) -> None:
    """Until somebody presses q or Ctrl-C. What was on the screen before is there again afterwards."""
    server.ask()  # where there is none, it is told on the screen that stays
    with _whole_screen():
        while True:
            sys.stdout.write(_CLEAR + _fitted(server.ask(), *shutil.get_terminal_size()))
            sys.stdout.flush()
            if _key(_REFRESH_SECONDS) == "q":
                return


def _fitted(text: str, columns: int, lines: int) -> str:
    """As much as the terminal shows; what is left out is told."""
    rows = [line[:columns] for line in text.splitlines()]
    if len(rows) > lines:
        rows = [*rows[: lines - 1], f"… {len(rows) - lines + 1} lines more; --once shows all"[:columns]]
    return "\n".join(rows)


def _key(seconds: float) -> str | None:
    if not sys.stdin.isatty():
        select.select([], [], [], seconds)
        return None
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode("latin-1").lower() or "q" if ready else None


@contextmanager
def _whole_screen() -> Generator[None]:
    """The terminal's other screen, and keys as they are pressed."""
    before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    try:
        if before is not None:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(_OTHER_SCREEN)
        yield
    finally:
        sys.stdout.write(_OWN_SCREEN)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
