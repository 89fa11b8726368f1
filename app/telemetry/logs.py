"""Structured logs on standard error: JSON, or coloured lines on a terminal. Every log of the process goes this way."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec
import structlog

from app.flow.request import current_request

_LEVEL = logging.INFO


def configure_logs() -> None:
    """Sends structlog, the standard library's logging (Hypercorn's included) and warnings to standard error."""
    on_terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        _identify,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering = _console() if on_terminal else _json()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVEL),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVEL)
    logging.captureWarnings(True)
    # Alembic tells each step of each connection; a migration is told by the command that runs it.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _identify(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the request that the line belongs to; a context variable follows a call into its thread too."""
    request = current_request.get(None)
    if request is not None:
        event.setdefault("request_id", request.id)
        if request.trace_id is not None:
            event.setdefault("trace_id", request.trace_id)
    return event


def _json() -> list[structlog.typing.Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_encode)]


def _encode(event: Mapping[str, Any], **_: Any) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except UnicodeEncodeError:
        return json.dumps(event, default=repr)


def _console() -> list[structlog.typing.Processor]:
    return [structlog.dev.ConsoleRenderer(repr_native_str=True, exception_formatter=structlog.dev.plain_traceback)]
