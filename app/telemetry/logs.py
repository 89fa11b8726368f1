"""Structured logs on standard error: JSON, or coloured lines on a terminal. Every log of the process goes this way."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec
import structlog

from app.flow.request import current_request
from app.settings import LogLevel
from app.telemetry import families as f
from app.telemetry.metrics import Reading, metrics
from app.telemetry.outcomes import EndedRequest
from app.telemetry.sink import Sink

# Alembic tells each step of each connection, and a migration is told by the command that runs it. Of the others the
# details are what clients, upstreams and rows say: fields with secrets in them, and what reports hold.
_AT_LEAST = {
    "alembic": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "hpack": logging.INFO,
    "httpcore": logging.INFO,
    "wsproto": logging.INFO,
}
# What the lines that are left may take to leave when the process ends.
_LAST_LINES_SECONDS = 1.0


def configure_logs(level: LogLevel = "info", *, apart: bool = True) -> None:
    """Sends structlog, the standard library's logging (Hypercorn's included) and warnings to standard error.

    apart: lines are written by a thread, so that nobody who logs waits for whoever reads them; False for commands,
    which have words for standard output too.
    """
    global request_ended, _sink, _tells_requests  # noqa: PLW0603 - standard error is the process's
    if cast("TextIO | None", sys.stderr) is None:  # it was closed by whoever started us
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
    number = logging.getLevelNamesMapping()[level.upper()]
    as_json = not sys.stderr.isatty()
    _tells_requests = number <= logging.INFO
    rendering = _json() if as_json else _console()
    _sink = sink = Sink(sys.stderr.fileno(), partial(_dropped, rendering), _take, apart=apart)
    metrics.read(_measures)
    request_ended = sink.put_record if as_json else _tell_request
    metrics.requests.settle = sink.make_records
    atexit.register(sink.drain, _LAST_LINES_SECONDS)
    stream = cast("TextIO", sink)
    shared: list[structlog.typing.Processor] = [_identify, structlog.stdlib.add_log_level, _stamp]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    _configure_library(stream, [*shared, structlog.stdlib.ExtraAdder()], rendering, number)


def _configure_library(
    stream: TextIO,
    shared: Sequence[structlog.typing.Processor],
    rendering: Sequence[structlog.typing.Processor],
    level: int,
) -> None:
    """The standard library's logging."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name, least in _AT_LEAST.items():
        logging.getLogger(name).setLevel(max(level, least))


def _dropped(rendering: Sequence[structlog.typing.Processor], count: int) -> bytes:
    """The line in the place of ``count`` others."""
    event: Any = _stamp(None, "", {"event": "lines dropped", "level": "warning", "lines": count})
    for processor in rendering:
        event = processor(None, "warning", event)
    return f"{event}\n".encode()


def _measures() -> Iterable[Reading]:
    yield f.LOG_DROPPED, (), 0 if _sink is None else _sink.dropped


_log = structlog.get_logger()
_sink: Sink[EndedRequest] | None = None
_tells_requests = True


def _tell_request(ended: EndedRequest) -> None:
    metrics.requests.count([ended])
    if _tells_requests:
        said: dict[str, Any] = msgspec.to_builtins(ended)
        _log.info("request", **{name: value for name, value in said.items() if name not in _ADDED})


request_ended: Callable[[EndedRequest], None] = _tell_request
"""Counts a request, and tells it as ``info("request", …)``. Every request pays for this: where lines are JSON, what it
takes is done later, for many at once."""


# To every line, by the others' way.
_ADDED = frozenset(("event", "request_id", "trace_id", "level", "timestamp"))


def _take(requests: Sequence[EndedRequest]) -> bytes:
    """Counts them, and makes their lines."""
    metrics.requests.count(requests)
    if not _tells_requests:
        return b""
    try:
        return _encoder.encode_lines(requests)
    except UnicodeEncodeError:
        return b"".join(json.dumps(msgspec.to_builtins(one)).encode() + b"\n" for one in requests)


def _identify(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the request that the line belongs to; a context variable follows a call into its thread too."""
    request = current_request.get(None)
    if request is not None:
        event.setdefault("request_id", request.id)
        if request.trace_id is not None:
            event.setdefault("trace_id", request.trace_id)
    return event


def _stamp(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The time (RFC 3339, UTC)."""
    event["timestamp"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return event


def _json() -> list[structlog.typing.Processor]:
    return [_render]


def _render(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    if "exc_info" in event:
        structlog.processors.format_exc_info(None, "", event)
    return _encode(event)


_encoder = msgspec.json.Encoder(enc_hook=repr)


def _encode(event: Mapping[str, Any], **_: Any) -> str:
    try:
        return _encoder.encode(event).decode()
    except UnicodeEncodeError:
        return json.dumps(event, default=repr)


def _console() -> list[structlog.typing.Processor]:
    return [structlog.dev.ConsoleRenderer(repr_native_str=True, exception_formatter=structlog.dev.plain_traceback)]
