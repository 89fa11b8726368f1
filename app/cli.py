"""The commands: arguments and settings in, `trio.run`, words and an exit code out. Nothing else prints or exits."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import trio
from hypercorn.config import Config

from app import __version__
from app.compose import build_server, open_database, open_house
from app.errors import SluiceError, StartError
from app.flow.drain import DrainGate
from app.flow.threads import ThreadPool, in_threads
from app.http.media import is_media_type
from app.reports.description import entity_tag
from app.settings import Settings, describe, load_settings, parse_bytes
from app.storage.blobs import CHUNK_BYTES, open_blobs
from app.storage.schema import check_schema
from app.telemetry.logs import configure_logs
from app.web.faults import real_errors, start_errors
from app.wire.drain import Drain
from app.wire.hypercorn import hypercorn_values, serve


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 1 failed (in one line on standard error), 2 not understood."""
    parsed = _parser().parse_args(arguments)
    settings = or_exit(load_settings)
    configure_logs()
    or_exit(partial(parsed.command, settings, parsed))
    sys.exit(0)


def or_exit[T](call: Callable[[], T]) -> T:
    """``call()``, or one line for each reason why not, and exit code 1. Other exceptions pass."""
    try:
        return call()
    except BaseException as raised:
        if any(isinstance(error, KeyboardInterrupt) for error in real_errors(raised)):
            _fail("interrupted")
        lines = start_errors(raised) or _foreseen(raised)
        if not lines:
            raise
        _fail(*lines)


def hypercorn_config() -> dict[str, Any]:
    """For ``deploy/hypercorn.py``: Hypercorn's configuration from our settings.

    Hypercorn binds its sockets in its master process, where an address that cannot be had is a traceback: from here
    on it is one line.
    """
    settings = or_exit(load_settings)
    configure_logs()
    sys.excepthook = _one_line_for_os_errors
    return hypercorn_values(settings.server)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice", description="Reports over HTTP. Settings come from the environment."
    )
    parser.add_argument("--version", action="version", version=f"sluice {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Settings, argparse.Namespace], object], meaning: str) -> Any:
        added = commands.add_parser(name, help=meaning, description=meaning)
        added.set_defaults(command=run)
        return added

    command("serve", _serve, "serve until SIGTERM or Ctrl-C; a second one cuts what is running")
    command("migrate", _migrate, "bring the database to the current schema; safe to repeat, safe to race")
    demo = command("demo", _demo, "load the demo data; safe to repeat")
    demo.add_argument("--large", metavar="SIZE", type=_size, help="also a report of about SIZE, such as 100MiB")
    add = command("add", _add, "store FILE as USER's newest report")
    add.add_argument("user", metavar="USER")
    add.add_argument("file", metavar="FILE", type=Path)
    add.add_argument("--type", metavar="T", type=_media_type, help="its media type; by default what its name says")
    command("check", _check, "validate settings, database and storage, and say in words what is wrong")
    return parser


# -- the commands ------------------------------------------------------------------------------------------------------


def _serve(settings: Settings, _: argparse.Namespace) -> None:
    config = Config.from_mapping(hypercorn_values(settings.server))
    try:
        sockets = config.create_sockets()
        for listening in sockets.insecure_sockets:
            listening.listen(config.backlog)
    except (OSError, OverflowError) as error:
        raise StartError(_cannot_listen(settings, error)) from error
    gate = DrainGate()
    server = settings.server
    drain = Drain(gate, server.drain_delay, server.drain_timeout, second_signal_cuts=True)
    app = build_server(settings, gate)
    if not trio.run(partial(serve, app, config, sockets, drain, server, settings.threads.io)):
        sys.exit(1)


def _migrate(settings: Settings, _: argparse.Namespace) -> None:
    from app.storage.migrate import migrate  # noqa: PLC0415 - slow to load, and needed here only

    print(f"schema {migrate(settings.database)}")


def _add(settings: Settings, parsed: argparse.Namespace) -> None:
    async def add() -> None:
        async with open_house(settings) as house:
            try:
                source = parsed.file.open("rb")
                source.peek(1)
            except OSError as error:
                raise StartError(f"{parsed.file}: {error.strerror or error}") from error
            with source:
                try:
                    async with aclosing(in_threads(iter(partial(source.read, CHUNK_BYTES), b""))) as chunks:
                        replaced = await house.reports.store(parsed.user, chunks, parsed.type, name=parsed.file.name)
                except OSError as error:
                    raise StartError(f"the report cannot be stored: {error.strerror or error}") from error
        entry = replaced.entry
        tag = entity_tag(entry.digest or "", entry.media_type or "")
        print(f"{entry.user_id}: version {entry.version}, {entry.size} bytes, {entry.media_type}, ETag {tag}")

    _run(add)


def _demo(settings: Settings, parsed: argparse.Namespace) -> None:
    from app.reports.demo import demo_reports, large_report  # noqa: PLC0415 - as above

    async def load() -> None:
        async with open_house(settings) as house:
            reports = [*demo_reports(), *([] if parsed.large is None else [large_report(parsed.large)])]
            for report in reports:
                known = await house.reports.find(report.user_id)
                if known is None or known.digest != report.digest():
                    async with aclosing(in_threads(report.make())) as chunks:
                        known = (await house.reports.store(report.user_id, chunks, report.media_type)).entry
                print(f"{known.user_id}: {known.size} bytes, {known.media_type}")

    _run(load)


def _check(settings: Settings, _: argparse.Namespace) -> None:
    print("\n".join(describe(settings)))
    mistakes: list[str] = []

    async def examine(name: str, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
        except Exception as raised:
            lines = start_errors(raised)
            if not lines:
                raise
            mistakes.extend(lines)
            print(f"{name}: failing")
        else:
            print(f"{name}: ok")

    async def database() -> None:
        async with open_database(settings) as opened:
            await check_schema(opened)

    async def reports() -> None:
        await open_blobs(settings.reports.directory, ThreadPool("files", 1))

    async def examine_all() -> None:
        await examine("database", database)
        await examine("reports", reports)

    _run(examine_all)
    if mistakes:
        raise StartError(*mistakes)


def _run(command: Callable[[], Awaitable[None]]) -> None:
    """``command()`` to its end, or cancelled by Ctrl-C or SIGTERM, which is then raised as KeyboardInterrupt.

    (Python's own way raises it between any two instructions, also where a scope has just been entered.)
    """

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_wait_for_signal, signals, nursery.cancel_scope)
                await command()
                nursery.cancel_scope.cancel()

    async def _wait_for_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal interrupted
        async for _ in signals:
            interrupted = True
            scope.cancel()

    interrupted = False
    trio.run(run, restrict_keyboard_interrupt_to_checkpoints=True)
    if interrupted:
        raise KeyboardInterrupt


# -- words -------------------------------------------------------------------------------------------------------------


def _fail(*lines: str) -> NoReturn:
    for line in lines:
        # Whatever a driver says, it is one line.
        print(f"sluice: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(1)


def _foreseen(raised: BaseException) -> list[str]:
    """Errors that a request would be answered with, in a command."""
    errors = real_errors(raised)
    foreseen = [error for error in errors if isinstance(error, SluiceError)]
    if len(foreseen) < len(errors):
        return []
    return [f"{error.detail}: {error.internal}" if error.internal else error.detail for error in foreseen]


def _cannot_listen(settings: Settings, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot listen on {settings.server.host}:{settings.server.port}: {reason}"


def _one_line_for_os_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, OSError):
        print(f"sluice: cannot listen: {error.strerror or error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _size(text: str) -> int:
    size = parse_bytes(text)
    if size is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 100MiB")
    return size


def _media_type(text: str) -> str:
    if not is_media_type(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no media type such as application/pdf")
    return text
