"""Structured logs on standard error: JSON, or coloured lines on a terminal. Every log of the process goes this way."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec
import structlog
import trio

from app.flow.request import current_request

_LEVEL = logging.INFO
_MOST_HELD = 64 * 1024


def configure_logs() -> None:
    """Sends structlog, the standard library's logging (Hypercorn's included) and warnings to standard error."""
    global _sink  # noqa: PLW0603 - standard error is the process's
    if cast("TextIO | None", sys.stderr) is None:  # it was closed by whoever started us
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
    on_terminal = sys.stderr.isatty()
    _sink = None if on_terminal else Sink(sys.stderr)
    shared: list[structlog.typing.Processor] = [_identify, structlog.stdlib.add_log_level, _stamp]
    rendering = _console() if on_terminal else _json()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVEL),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _sink or sys.stderr)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(cast("TextIO", _sink or sys.stderr))
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


class Sink:
    """A stream of lines. Those of requests may wait until the event loop's turn is over, and leave in one write.

    Lines that cannot be written are lost. Bound: `_MOST_HELD` bytes. Lines leave in the order in which they came, but
    for those of threads, which do not wait.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._held: list[bytes] = []
        self._size = 0
        self._writer: trio.lowlevel.Task | None = None
        self._sleeps = False
        self._thread = threading.get_ident()

    async def run(self) -> None:
        """Lets lines wait for as long as it runs; none is left when it ends."""
        self._writer, self._thread = trio.lowlevel.current_task(), threading.get_ident()
        try:
            while True:
                self._sleeps = True
                await trio.lowlevel.wait_task_rescheduled(self._abort)
                self.flush()
        finally:
            self._writer, self._sleeps = None, False
            self.flush()

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a full disk, or nobody at the other end: no reason to stop serving
            self._release()
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._release()
            self._stream.flush()

    def hold(self, line: bytes) -> None:
        """Writes ``line`` soon; it ends with its line break."""
        self._held.append(line)
        self._size += len(line)
        if self._writer is None or self._size >= _MOST_HELD:
            self.flush()
        elif self._sleeps:
            self._sleeps = False
            trio.lowlevel.reschedule(self._writer)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._sleeps = False
        return trio.lowlevel.Abort.SUCCEEDED

    def _release(self) -> None:
        if threading.get_ident() != self._thread:
            return
        held, self._held, self._size = self._held, [], 0
        if held:
            self._stream.write(b"".join(held).decode())


_sink: Sink | None = None


class RequestLine(msgspec.Struct, omit_defaults=True):
    """What the log says of a request.

    status: 499 for one whose client has left; None where it was not answered. ms, first_byte_ms: since it came, in
    milliseconds. bytes: of the answer's body. client: its address.
    """

    method: str
    path: str
    status: int | None
    outcome: str
    ms: float
    first_byte_ms: float | None
    bytes: int
    client: str | None
    request_id: str
    trace_id: str | None = None
    event: str = ""
    level: str = ""
    timestamp: str = ""


async def write_requests() -> None:
    """Lets the lines of requests leave together, for as long as it runs."""
    if _sink is not None:
        await _sink.run()


def log_request(logger: Any, line: RequestLine) -> None:
    """``logger.info("request", …)``, which every request pays for: where lines are JSON, made in one go."""
    if _sink is None:
        logger.info("request", **{name: getattr(line, name) for name in _SAID})
        return
    line.event, line.level, line.timestamp = "request", "info", _timestamp()
    try:
        encoded = _encoder.encode(line)
    except UnicodeEncodeError:
        encoded = json.dumps(msgspec.to_builtins(line)).encode()
    _sink.hold(encoded + b"\n")


# The others are added to every line.
_SAID = RequestLine.__struct_fields__[: RequestLine.__struct_fields__.index("request_id")]


def _identify(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the request that the line belongs to; a context variable follows a call into its thread too."""
    request = current_request.get(None)
    if request is not None:
        event.setdefault("request_id", request.id)
        if request.trace_id is not None:
            event.setdefault("trace_id", request.trace_id)
    return event


_second: tuple[int, str] = (0, "")


def _stamp(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The time (RFC 3339, UTC); its first part is made once a second."""
    event["timestamp"] = _timestamp()
    return event


def _timestamp() -> str:
    global _second  # noqa: PLW0603 - a clock is the process's
    seconds, rest = divmod(time.time_ns(), 10**9)
    if _second[0] != seconds:
        _second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
    return f"{_second[1]}.{rest // 1000:06d}Z"


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
