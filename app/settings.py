"""Settings: the environment (or a ``.env`` file) as one frozen dataclass per room, validated before anything starts.

All mistakes are told at once, one line each: the variable, the value and what is allowed. Secrets are masked wherever
a settings object is printed. An unknown ``SLUICE_*`` name is a mistake too, told with the nearest known name.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dotenv.parser import parse_stream

from app.config.aggregate import AggregateSettings
from app.config.file import TaskSettings, read_config_file
from app.config.live import LiveSettings
from app.config.quantities import MOST_SECONDS, parse_bytes, parse_quantity, parse_seconds
from app.errors import StartError

_WHOLE = re.compile(r"[0-9]{1,9}")
_HTTP_URL = re.compile(r"https?://[^\s/]+\S*")
_PROTOCOL = "http/protobuf"
_MASK = "********"

type LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class ServerSettings:
    """The listening socket, its time limits in seconds, and what one client may send and hold.

    wire: who serves HTTP/1.1. max_connections: of one worker process. max_head_bytes, max_head_fields: of a request's
    head, the request line included. max_upload: bytes of a body that a route takes as it comes. max_json: bytes of one
    that a route reads whole.
    """

    host: str
    port: int
    wire: Literal["sluice", "stock"]
    max_connections: int
    max_head_bytes: int
    max_head_fields: int
    max_upload: int
    max_json: int
    header_timeout: float
    idle_timeout: float
    stall_timeout: float
    request_deadline: float
    drain_delay: float
    drain_timeout: float


@dataclass(frozen=True)
class DatabaseSettings:
    """Where rows are kept: MySQL when ``host`` is given, else the embedded SQLite at ``path``."""

    host: str | None
    port: int
    user: str
    password: str = field(repr=False)
    name: str
    tls_ca: Path | None
    pool: int
    path: Path


@dataclass(frozen=True)
class ReportsSettings:
    """The only folder that reports are read from. keep_versions: of each report, the newest included."""

    directory: Path
    keep_versions: int


@dataclass(frozen=True)
class ThreadSettings:
    """Threads for blocking calls (files, SQLite, name look-ups), at most."""

    io: int


@dataclass(frozen=True)
class ComputeSettings:
    """Worker processes, and what a task may take.

    workers: at most; None: one less than there are processors, at least one. queue: tasks that may wait; None: twice
    the workers. memory: bytes of address space that one task may have. processor: seconds of it. grace: seconds from
    the moment when a task is told to end to the one when it is killed. tasks_per_worker: after so many, it is replaced.
    max_body: bytes of a request for a task.
    """

    workers: int | None
    queue: int | None
    memory: int
    processor: float
    grace: float
    tasks_per_worker: int
    max_body: int


@dataclass(frozen=True)
class JobSettings:
    """Where results are kept that are too large for a row, and for how many seconds after a job has ended."""

    directory: Path
    ttl: float


@dataclass(frozen=True)
class TransformSettings:
    """max_expansion: how many times as much as it took a decompression may give, beyond its first 10 MiB."""

    max_expansion: float


@dataclass(frozen=True)
class TelemetrySettings:
    """log_level: of the lines that are written, at least. stall_warn: seconds for which the event loop may not answer
    before that is logged; 0: it never is."""

    log_level: LogLevel
    stall_warn: float


@dataclass(frozen=True)
class TraceSettings:
    """Whether spans are sent, and OpenTelemetry's own variables, which say where to and which: its SDK reads them."""

    on: bool
    variables: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """What one process of Sluice runs on; each room gets its own part."""

    server: ServerSettings
    database: DatabaseSettings
    reports: ReportsSettings
    threads: ThreadSettings
    compute: ComputeSettings
    tasks: TaskSettings
    aggregate: AggregateSettings
    jobs: JobSettings
    transforms: TransformSettings
    live: LiveSettings
    telemetry: TelemetrySettings
    traces: TraceSettings


@dataclass(frozen=True)
class Variable:
    """One environment variable: what it means, its default as it would be written, and whether it is a secret."""

    name: str
    meaning: str
    default: str
    secret: bool = False
    alias: str | None = None


VARIABLES: tuple[Variable, ...] = (
    Variable("HOST", "address to listen on", "127.0.0.1"),
    Variable("PORT", "port to listen on; 0 picks a free one", "3000"),
    Variable("DB_HOST", "MySQL server; without it the embedded database is used", ""),
    Variable("DB_PORT", "its port", "3306"),
    Variable("DB_USER", "its user", ""),
    Variable("DB_PASS", "its password", "", secret=True),
    Variable("DB_NAME", "its database", ""),
    Variable("DB_TLS_CA", "PEM file of the authority that signed its certificate; turns TLS on", ""),
    Variable("SLUICE_DATA_DIR", "database file and reports", "var"),
    Variable("SLUICE_REPORTS_DIR", "the only folder that reports are read from", "$SLUICE_DATA_DIR/reports"),
    Variable("SLUICE_CONFIG", "TOML file: modules with tasks, views of several sources, live topics", ""),
    Variable("SLUICE_KEEP_VERSIONS", "versions of a report that are kept, the newest included", "5"),
    Variable("SLUICE_DB_POOL", "connections at most per worker process; one more, short-lived, may end a query", "20"),
    Variable(
        "SLUICE_IO_THREADS",
        "threads for file I/O, the embedded database and name look-ups, at most",
        "8",
        alias="UV_THREADPOOL_SIZE",
    ),
    Variable("SLUICE_COMPUTE_WORKERS", "worker processes at most; by default one less than usable processors", ""),
    Variable("SLUICE_COMPUTE_QUEUE", "tasks that may wait; by default twice the workers; more is refused", ""),
    Variable("SLUICE_TASK_MEMORY", "address space that one task may take", "1GiB"),
    Variable("SLUICE_TASK_CPU", "processor time that one task may take", "10min"),
    Variable("SLUICE_TASK_GRACE", "from telling a task to end to killing it", "1s"),
    Variable("SLUICE_TASKS_PER_WORKER", "tasks after which a worker process is replaced", "1000"),
    Variable("SLUICE_MAX_TASK_BODY", "largest body of a request for a task", "64MiB"),
    Variable("SLUICE_JOB_TTL", "how long a job is kept after it has ended", "1h"),
    Variable("SLUICE_MAX_EXPANSION", "times that a decompression may give what it took, beyond 10 MiB", "200"),
    Variable("SLUICE_WIRE", "who serves HTTP/1.1: `sluice`, or `stock` for Hypercorn as it comes", "sluice"),
    Variable("SLUICE_MAX_CONNECTIONS", "client connections of a worker process at most; past it 503", "10000"),
    Variable("SLUICE_MAX_HEAD_SIZE", "a request's head, its request line included", "32KiB"),
    Variable("SLUICE_MAX_HEAD_FIELDS", "header fields of a request at most", "100"),
    Variable("SLUICE_MAX_UPLOAD", "largest streamed body", "5GiB"),
    Variable("SLUICE_MAX_JSON", "largest body that a route reads whole", "1MiB"),
    Variable(
        "SLUICE_HEADER_TIMEOUT",
        "a request head must be complete, counted from its first byte, over HTTP/1.1 and HTTP/2",
        "10s",
    ),
    Variable("SLUICE_IDLE_TIMEOUT", "keep-alive connection without a request", "75s"),
    Variable("SLUICE_STALL_TIMEOUT", "no byte moved while we wait on the peer", "30s"),
    Variable("SLUICE_REQUEST_DEADLINE", "a request's whole time; transfers that keep moving are exempt", "60s"),
    Variable("SLUICE_DRAIN_DELAY", "not ready, but still accepting, so that load balancers notice", "0s"),
    Variable("SLUICE_DRAIN_TIMEOUT", "what running requests get at shutdown", "30s"),
    Variable("SLUICE_LOG_LEVEL", "lines of the log, from this level on", "info"),
    Variable("SLUICE_STALL_WARN", "the event loop may not answer for so long until that is logged; 0: never", "100ms"),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "collector that spans are sent to, such as `http://127.0.0.1:4318`", ""),
)
_SECRETS = {variable.name for variable in VARIABLES if variable.secret}
_DEFAULTS = {variable.name: variable.default for variable in VARIABLES}


def read_environment(directory: Path | None = None) -> dict[str, str]:
    """The process environment over the ``.env`` file of ``directory`` (by default the current one).

    Errors: StartError when the file is there and cannot be read.
    """
    path = (directory or Path()) / ".env"
    try:
        lines = list(parse_stream(io.StringIO(path.read_text("utf-8")))) if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path}: cannot be read: {error}") from error
    if mistakes := [
        f"{path}: line {line.original.line}: is no NAME=VALUE"
        for line in lines
        if line.error or (line.key and line.value is None)
    ]:
        raise StartError(*mistakes)
    # As it is written, without expanding ${...}: a password may contain that.
    values = {line.key: line.value for line in lines if line.key is not None and line.value is not None}
    return values | dict(os.environ)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from ``environment`` (by default `read_environment`). An empty value counts as not given.

    Errors: StartError with one line for each mistake.
    """
    return _Reader(read_environment() if environment is None else environment).settings()


def describe(settings: Settings) -> list[str]:
    """``room.name = value`` lines, secrets masked; for ``python -m app check``."""
    return [
        f"{room}.{name} = {_MASK if not spec.repr and value else value}"
        for room, part in vars(settings).items()
        for name, spec in part.__dataclass_fields__.items()
        for value in [getattr(part, name)]
    ]


class _Reader:
    """One pass over an environment: values by name, mistakes collected rather than raised."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._given = {
            name: value if name in _SECRETS else value.strip() for name, value in environment.items() if value.strip()
        }
        self._mistakes: list[str] = []

    def settings(self) -> Settings:
        self._refuse_unknown()
        server = ServerSettings(
            host=self._text("HOST"),
            port=self._whole("PORT", 0, 65535),
            wire="stock" if self._one_of("SLUICE_WIRE", "sluice", "stock") == "stock" else "sluice",
            max_connections=self._whole("SLUICE_MAX_CONNECTIONS", 1, 1_000_000),
            max_head_bytes=self._bytes("SLUICE_MAX_HEAD_SIZE", 1024, 1024**2),
            max_head_fields=self._whole("SLUICE_MAX_HEAD_FIELDS", 1, 10_000),
            max_upload=self._bytes("SLUICE_MAX_UPLOAD", 1, 2**62),
            max_json=self._bytes("SLUICE_MAX_JSON", 1, 1024**3),
            header_timeout=self._seconds("SLUICE_HEADER_TIMEOUT"),
            idle_timeout=self._seconds("SLUICE_IDLE_TIMEOUT"),
            stall_timeout=self._seconds("SLUICE_STALL_TIMEOUT"),
            request_deadline=self._seconds("SLUICE_REQUEST_DEADLINE"),
            drain_delay=self._seconds("SLUICE_DRAIN_DELAY", may_be_zero=True),
            drain_timeout=self._seconds("SLUICE_DRAIN_TIMEOUT", may_be_zero=True),
        )
        data = Path(self._text("SLUICE_DATA_DIR"))
        config = read_config_file(self._given.get("SLUICE_CONFIG"), self._given)
        self._mistakes += config.mistakes
        reports = self._given.get("SLUICE_REPORTS_DIR")
        settings = Settings(
            server=server,
            database=self._database(data),
            reports=ReportsSettings(
                directory=Path(reports) if reports else data / "reports",
                keep_versions=self._whole("SLUICE_KEEP_VERSIONS", 1, 10_000),
            ),
            threads=ThreadSettings(io=self._whole("SLUICE_IO_THREADS", 1, 1024)),
            compute=ComputeSettings(
                workers=self._whole_or_none("SLUICE_COMPUTE_WORKERS", 1, 1024),
                queue=self._whole_or_none("SLUICE_COMPUTE_QUEUE", 1, 1_000_000),
                memory=self._bytes("SLUICE_TASK_MEMORY", 16 * 1024**2, 2**50),
                processor=self._seconds("SLUICE_TASK_CPU"),
                grace=self._seconds("SLUICE_TASK_GRACE", may_be_zero=True),
                tasks_per_worker=self._whole("SLUICE_TASKS_PER_WORKER", 1, 1_000_000_000 - 1),
                max_body=self._bytes("SLUICE_MAX_TASK_BODY", 1, 1024**3),
            ),
            tasks=config.tasks,
            aggregate=config.aggregate,
            jobs=JobSettings(directory=data / "jobs", ttl=self._seconds("SLUICE_JOB_TTL")),
            transforms=TransformSettings(self._number("SLUICE_MAX_EXPANSION", 1, 1e9)),
            live=config.live,
            telemetry=TelemetrySettings(
                log_level=self._log_level(), stall_warn=self._seconds("SLUICE_STALL_WARN", may_be_zero=True)
            ),
            traces=self._traces(),
        )
        if self._mistakes:
            raise StartError(*self._mistakes)
        return settings

    def _database(self, data: Path) -> DatabaseSettings:
        host = self._given.get("DB_HOST")
        ca = self._given.get("DB_TLS_CA")
        if host:
            self._mistakes += [f"{name}: is needed when DB_HOST is set" for name in self._missing("DB_USER", "DB_NAME")]
            if ca and not Path(ca).is_file():
                self._mistakes.append(f"DB_TLS_CA: {ca!r} is not allowed: a PEM file that exists")
        return DatabaseSettings(
            host=host,
            port=self._whole("DB_PORT", 1, 65535),
            user=self._text("DB_USER"),
            password=self._text("DB_PASS"),
            name=self._text("DB_NAME"),
            tls_ca=Path(ca) if ca else None,
            pool=self._whole("SLUICE_DB_POOL", 1, 1000),
            path=data / "sluice.db",
        )

    def _log_level(self) -> LogLevel:
        text = self._text("SLUICE_LOG_LEVEL")
        for level in LOG_LEVELS:
            if level == text.lower():
                return level
        self._refuse("SLUICE_LOG_LEVEL", text, " or ".join(LOG_LEVELS), None)
        return "info"

    def _traces(self) -> TraceSettings:
        given = {name: value for name, value in self._given.items() if name.startswith("OTEL_")}
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        off = given.get("OTEL_SDK_DISABLED", "").lower() == "true" or given.get("OTEL_TRACES_EXPORTER") == "none"
        on = not off and any(name in given for name in endpoints)
        for name in endpoints if on else ():
            if name in given and not _HTTP_URL.fullmatch(given[name]):
                self._refuse(name, given[name], "an http or https URL", None)
        for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") if on else ():
            if (protocol := given.get(name, _PROTOCOL)) != _PROTOCOL:
                self._refuse(name, protocol, _PROTOCOL, None)
        return TraceSettings(on, given)

    def _missing(self, *names: str) -> list[str]:
        return [name for name in names if name not in self._given]

    def _refuse_unknown(self) -> None:
        for name in sorted(self._given):
            if name.startswith("SLUICE_") and name not in _DEFAULTS:
                known = [known for known in _DEFAULTS if known.startswith("SLUICE_")]
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                self._mistakes.append(f"{name}: is not a setting of Sluice; did you mean {nearest}?")

    def _text(self, name: str) -> str:
        return self._given.get(name, _DEFAULTS[name])

    def _named(self, name: str) -> tuple[str, str]:
        """The name under which a value was given (its own, or its alias), and that value."""
        alias = next((variable.alias for variable in VARIABLES if variable.name == name), None)
        if name not in self._given and alias and alias in self._given:
            return alias, self._given[alias]
        return name, self._text(name)

    def _whole(self, name: str, least: int, most: int) -> int:
        name, text = self._named(name)
        if _WHOLE.fullmatch(text) and least <= int(text) <= most:
            return int(text)
        return self._refuse(name, text, f"a whole number from {least} to {most}", least)

    def _whole_or_none(self, name: str, least: int, most: int) -> int | None:
        return self._whole(name, least, most) if name in self._given else None

    def _number(self, name: str, least: float, most: float) -> float:
        name, text = self._named(name)
        number = parse_quantity(text, {"": 1.0})
        if number is not None and least <= number <= most:
            return number
        return self._refuse(name, text, f"a number from {least:g} to {most:g}", least)

    def _one_of(self, name: str, *allowed: str) -> str:
        name, text = self._named(name)
        return text if text in allowed else self._refuse(name, text, " or ".join(allowed), allowed[0])

    def _bytes(self, name: str, least: int, most: int) -> int:
        name, text = self._named(name)
        size = parse_bytes(text)
        if size is not None and least <= size <= most:
            return size
        return self._refuse(name, text, f"a size of {least} to {most} bytes, such as 512KiB, 1MiB or 5GiB", least)

    def _seconds(self, name: str, *, may_be_zero: bool = False) -> float:
        name, text = self._named(name)
        seconds = parse_seconds(text)
        if seconds is not None and (seconds > 0 or may_be_zero) and seconds <= MOST_SECONDS:
            return seconds
        what = "a time of 0 or more" if may_be_zero else "a time above 0"
        return self._refuse(name, text, f"{what}, up to {MOST_SECONDS // 3600} h, such as 30, 30s, 500ms or 2min", 0.0)

    def _refuse[T](self, name: str, text: str, allowed: str, stand_in: T) -> T:
        self._mistakes.append(f"{name}: {text!r} is not allowed: {allowed}")
        return stand_in
