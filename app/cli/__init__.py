"""The commands: arguments and settings in, `trio.run`, words and an exit code out. Nothing else prints or exits.

Each command is a module, loaded when it is the one that runs: most of what the server is made of takes long to load.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from app import __version__
from app.config.quantities import parse_bytes
from app.errors import SluiceError
from app.http.media import is_media_type
from app.settings import load_settings


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 1 failed (in one line on standard error), 2 not understood."""
    parsed = _parser().parse_args(arguments)
    settings = or_exit(load_settings)
    module, _, name = parsed.run.partition(".")
    or_exit(partial(getattr(import_module(f"app.cli.{module}"), name), settings, parsed))
    sys.exit(0)


def or_exit[T](call: Callable[[], T]) -> T:
    """``call()``, or one line for each reason why not, and exit code 1. Other exceptions pass."""
    try:
        return call()
    except BaseException as raised:
        from app.web.faults import real_errors, start_errors  # noqa: PLC0415 - knows the web's exceptions too

        errors = real_errors(raised)
        if any(isinstance(error, KeyboardInterrupt) for error in errors):
            _fail("interrupted")
        lines = start_errors(raised) or _foreseen(errors)
        if not lines:
            raise
        _fail(*lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice", description="Reports over HTTP. Settings come from the environment."
    )
    parser.add_argument("--version", action="version", version=f"sluice {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: str, meaning: str) -> Any:
        added = commands.add_parser(name, help=meaning, description=meaning)
        added.set_defaults(run=run)
        return added

    command("serve", "serve.run", "serve until SIGTERM or Ctrl-C; a second one cuts what is running")
    command("migrate", "migrate.run", "bring the database to the current schema; safe to repeat, safe to race")
    demo = command("demo", "reports.demo", "load the demo data; safe to repeat")
    demo.add_argument("--large", metavar="SIZE", type=_size, help="also a report of about SIZE, such as 100MiB")
    add = command("add", "reports.add", "store FILE as USER's newest report")
    add.add_argument("user", metavar="USER")
    add.add_argument("file", metavar="FILE", type=Path)
    add.add_argument("--type", metavar="T", type=_media_type, help="its media type; by default what its name says")
    transform = command("transform", "transform.run", "run a file through steps; OUT is replaced only as a whole")
    transform.add_argument("source", metavar="IN", help="the file to read; - for standard input")
    transform.add_argument("target", metavar="OUT", help="the file to write; - for standard output")
    transform.add_argument(
        "--step", metavar="S", action="append", required=True, help="NAME or NAME:ARGUMENTS; repeated, in order"
    )
    tasks = command("tasks", "tasks.run", "what a running server is at, task by task; refreshed on a terminal until q")
    tasks.add_argument("--url", metavar="URL", help="where it answers; by default what HOST and PORT say")
    tasks.add_argument("--once", action="store_true", help="once, also on a terminal")
    command("check", "check.run", "validate settings, database, storage and tasks, and say in words what is wrong")
    return parser


# -- words -------------------------------------------------------------------------------------------------------------


def _fail(*lines: str) -> NoReturn:
    for line in lines:
        # Whatever a driver says, it is one line.
        print(f"sluice: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(1)


def _foreseen(errors: list[BaseException]) -> list[str]:
    """Errors that a request would be answered with, in a command."""
    foreseen = [error for error in errors if isinstance(error, SluiceError)]
    if len(foreseen) < len(errors):
        return []
    return [f"{error.detail}: {error.internal}" if error.internal else error.detail for error in foreseen]


def _size(text: str) -> int:
    size = parse_bytes(text)
    if size is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 100MiB")
    return size


def _media_type(text: str) -> str:
    if not is_media_type(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no media type such as application/pdf")
    return text
