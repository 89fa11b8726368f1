"""``serve``, and what the production command is configured by."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from functools import partial
from types import TracebackType
from typing import Any

import trio
from hypercorn.config import Config

from app.cli import or_exit
from app.compose import build_server
from app.errors import StartError
from app.flow.drain import DrainGate
from app.settings import Settings, load_settings
from app.telemetry.logs import configure_logs
from app.telemetry.runtime_folder import remove_of
from app.wire.drain import Drain
from app.wire.hypercorn import hypercorn_values, serve


def run(settings: Settings, _: argparse.Namespace) -> None:
    configure_logs(settings.telemetry.log_level)
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


def hypercorn_config() -> dict[str, Any]:
    """For ``deploy/hypercorn.py``: Hypercorn's configuration from our settings.

    Hypercorn binds its sockets in its master process, where an address that cannot be had is a traceback: from here
    on it is one line.
    """
    settings = or_exit(load_settings)
    configure_logs(settings.telemetry.log_level)
    # Its workers keep there what they count, and do not know which of them is the last one.
    atexit.register(remove_of, os.getpid())
    sys.excepthook = _one_line_for_os_errors
    return hypercorn_values(settings.server)


def _cannot_listen(settings: Settings, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot listen on {settings.server.host}:{settings.server.port}: {reason}"


def _one_line_for_os_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, OSError):
        print(f"sluice: cannot listen: {error.strerror or error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
