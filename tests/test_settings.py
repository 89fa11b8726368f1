"""Settings: what each may be, what is said of the ones that are wrong, and that secrets stay secret."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from app.config.quantities import parse_bytes
from app.errors import StartError
from app.settings import VARIABLES, Settings, Variable, describe, load_settings, read_environment

MYSQL = {"DB_HOST": "db", "DB_USER": "sluice", "DB_NAME": "reports"}
CONFIG = str(Path(__file__).parent / "compute" / "sluice.toml")
SECRETS = [variable.name for variable in VARIABLES if variable.secret]

BAD_NUMBERS = ["x", "-1", "1.5", "1e3", "0x10", "1_000", "9" * 400, "3 0", "\u0663", "nan", "30s"]
BAD_TIMES = [
    "8761h",
    "999999999999999h",
    "x",
    "-1",
    "-1s",
    "1e3",
    "30 parsecs",
    "30S",
    "5MiB",
    "nan",
    "inf",
    "1,5",
    ".",
    "s",
    "1.5.2",
    "9" * 400,
]
BAD_SIZES = ["x", "-1", "1e3", "1MB", "1mib", "30s", "0x400", "KiB", "1 2", "nan", "inf", "9" * 400]
# A new variable fails these tests until it is said here which of its values are refused, and how it is read.
REFUSED: dict[str, list[str]] = {
    "HOST": [],
    "PORT": [*BAD_NUMBERS, "65536"],
    "DB_HOST": [],
    "DB_PORT": [*BAD_NUMBERS, "0", "65536"],
    "DB_USER": [],
    "DB_PASS": [],
    "DB_NAME": [],
    "DB_TLS_CA": ["/nowhere/ca.pem", "/"],
    "SLUICE_DATA_DIR": [],
    "SLUICE_REPORTS_DIR": [],
    "SLUICE_CONFIG": ["/nowhere/sluice.toml", "/"],
    "SLUICE_KEEP_VERSIONS": [*BAD_NUMBERS, "0", "10001"],
    "SLUICE_DB_POOL": [*BAD_NUMBERS, "0", "1001"],
    "SLUICE_IO_THREADS": [*BAD_NUMBERS, "0", "1000000"],
    "SLUICE_COMPUTE_WORKERS": [*BAD_NUMBERS, "0", "1025"],
    "SLUICE_COMPUTE_QUEUE": [*BAD_NUMBERS, "0", "1000001"],
    "SLUICE_TASK_MEMORY": [*BAD_SIZES, "1MiB", "1025TiB"],
    "SLUICE_TASK_CPU": [*BAD_TIMES, "0"],
    "SLUICE_TASK_GRACE": [*BAD_TIMES],
    "SLUICE_TASKS_PER_WORKER": [*BAD_NUMBERS, "0"],
    "SLUICE_MAX_TASK_BODY": [*BAD_SIZES, "0", "2GiB"],
    "SLUICE_JOB_TTL": [*BAD_TIMES, "0"],
    "SLUICE_MAX_EXPANSION": ["0", "0.5", "-1", "many", "1e9", "10x", "2000000000"],
    "SLUICE_WIRE": ["Sluice", "hypercorn", "sluice stock", "0"],
    "SLUICE_MAX_CONNECTIONS": [*BAD_NUMBERS, "0", "1000001"],
    "SLUICE_MAX_HEAD_SIZE": [*BAD_SIZES, "0", "1023", "1.1MiB"],
    "SLUICE_MAX_HEAD_FIELDS": [*BAD_NUMBERS, "0", "10001"],
    "SLUICE_MAX_UPLOAD": [*BAD_SIZES, "0", "0.5B"],
    "SLUICE_MAX_JSON": [*BAD_SIZES, "0", "2GiB"],
    "SLUICE_HEADER_TIMEOUT": [*BAD_TIMES, "0"],
    "SLUICE_IDLE_TIMEOUT": [*BAD_TIMES, "0", "0ms"],
    "SLUICE_STALL_TIMEOUT": [*BAD_TIMES, "0", "0.0s"],
    "SLUICE_REQUEST_DEADLINE": [*BAD_TIMES, "0"],
    "SLUICE_DRAIN_DELAY": BAD_TIMES,
    "SLUICE_DRAIN_TIMEOUT": BAD_TIMES,
    "SLUICE_LOG_LEVEL": ["warn", "10", "info debug", "trace", "none"],
    "SLUICE_STALL_WARN": BAD_TIMES,
    "OTEL_EXPORTER_OTLP_ENDPOINT": ["collector:4318", "grpc://collector:4317", "http://", "/v1/traces"],
}
type Read = Callable[[Settings], object]
READ: dict[str, tuple[str, object, Read]] = {
    "HOST": ("::1", "::1", lambda s: s.server.host),
    "PORT": ("0", 0, lambda s: s.server.port),
    "DB_HOST": ("elsewhere", "elsewhere", lambda s: s.database.host),
    "DB_PORT": ("65535", 65535, lambda s: s.database.port),
    "DB_USER": ("naïve", "naïve", lambda s: s.database.user),
    "DB_PASS": ("p=$#'\" w", "p=$#'\" w", lambda s: s.database.password),
    "DB_NAME": ("other", "other", lambda s: s.database.name),
    "DB_TLS_CA": (__file__, Path(__file__), lambda s: s.database.tls_ca),
    "SLUICE_DATA_DIR": ("/data", Path("/data/sluice.db"), lambda s: s.database.path),
    "SLUICE_REPORTS_DIR": ("/a b", Path("/a b"), lambda s: s.reports.directory),
    "SLUICE_CONFIG": (CONFIG, ("tests.compute.plugin",), lambda s: s.tasks.modules),
    "SLUICE_KEEP_VERSIONS": ("1", 1, lambda s: s.reports.keep_versions),
    "SLUICE_DB_POOL": ("1", 1, lambda s: s.database.pool),
    "SLUICE_IO_THREADS": ("1", 1, lambda s: s.threads.io),
    "SLUICE_COMPUTE_WORKERS": ("3", 3, lambda s: s.compute.workers),
    "SLUICE_COMPUTE_QUEUE": ("7", 7, lambda s: s.compute.queue),
    "SLUICE_TASK_MEMORY": ("64MiB", 2**26, lambda s: s.compute.memory),
    "SLUICE_TASK_CPU": ("2min", 120.0, lambda s: s.compute.processor),
    "SLUICE_TASK_GRACE": ("0", 0.0, lambda s: s.compute.grace),
    "SLUICE_TASKS_PER_WORKER": ("5", 5, lambda s: s.compute.tasks_per_worker),
    "SLUICE_MAX_TASK_BODY": ("2MiB", 2**21, lambda s: s.compute.max_body),
    "SLUICE_JOB_TTL": ("5min", 300.0, lambda s: s.jobs.ttl),
    "SLUICE_MAX_EXPANSION": ("1.5", 1.5, lambda s: s.transforms.max_expansion),
    "SLUICE_WIRE": ("stock", "stock", lambda s: s.server.wire),
    "SLUICE_MAX_CONNECTIONS": ("50", 50, lambda s: s.server.max_connections),
    "SLUICE_MAX_HEAD_SIZE": ("1MiB", 2**20, lambda s: s.server.max_head_bytes),
    "SLUICE_MAX_HEAD_FIELDS": ("1", 1, lambda s: s.server.max_head_fields),
    "SLUICE_MAX_UPLOAD": ("1 TiB", 2**40, lambda s: s.server.max_upload),
    "SLUICE_MAX_JSON": ("1", 1, lambda s: s.server.max_json),
    "SLUICE_HEADER_TIMEOUT": ("250ms", 0.25, lambda s: s.server.header_timeout),
    "SLUICE_IDLE_TIMEOUT": ("1.5", 1.5, lambda s: s.server.idle_timeout),
    "SLUICE_STALL_TIMEOUT": ("500ms", 0.5, lambda s: s.server.stall_timeout),
    "SLUICE_REQUEST_DEADLINE": ("2min", 120.0, lambda s: s.server.request_deadline),
    "SLUICE_DRAIN_DELAY": ("0", 0.0, lambda s: s.server.drain_delay),
    "SLUICE_DRAIN_TIMEOUT": ("1 h", 3600.0, lambda s: s.server.drain_timeout),
    "SLUICE_LOG_LEVEL": ("Warning", "warning", lambda s: s.telemetry.log_level),
    "SLUICE_STALL_WARN": ("0", 0.0, lambda s: s.telemetry.stall_warn),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://[::1]:4318", True, lambda s: s.traces.on),
}
each_variable = pytest.mark.parametrize("variable", VARIABLES, ids=[variable.name for variable in VARIABLES])


def mistakes(environment: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(StartError) as caught:
        load_settings(environment)
    return caught.value.lines


@each_variable
def test_a_value_that_is_refused_is_told_in_one_line_with_what_is_allowed(variable: Variable) -> None:
    for value in REFUSED[variable.name]:
        (line,) = mistakes(MYSQL | {variable.name: value})
        assert line.startswith(f"{variable.name}: {value!r} is not allowed: ")
        assert re.search(r": (an?|\w+ or) \w.+$", line)


@each_variable
def test_a_value_that_is_allowed_arrives(variable: Variable) -> None:
    text, value, read = READ[variable.name]
    assert read(load_settings(MYSQL | {variable.name: text})) == value
    if not variable.secret:
        assert read(load_settings(MYSQL | {variable.name: f" {text}\t"})) == value


@each_variable
def test_an_empty_value_counts_as_not_given(variable: Variable) -> None:
    for empty in ("", "  "):
        assert load_settings({variable.name: empty}) == load_settings({})


@each_variable
def test_the_default_that_is_documented_is_the_one_that_applies(variable: Variable) -> None:
    written = variable.default.replace("$SLUICE_DATA_DIR", "var")
    assert load_settings({variable.name: written}) == load_settings({})


def test_without_any_setting_there_is_an_embedded_database_below_var() -> None:
    settings = load_settings({})
    assert settings.database.host is None
    assert settings.database.path == Path("var/sluice.db")
    assert settings.reports.directory == Path("var/reports")
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 3000)
    assert (settings.server.request_deadline, settings.server.drain_timeout) == (60.0, 30.0)
    assert (settings.database.pool, settings.threads.io) == (20, 8)
    assert (settings.server.wire, settings.server.max_connections) == ("sluice", 10_000)
    assert (settings.server.max_upload, settings.server.max_json) == (5 * 2**30, 2**20)


def test_the_reports_folder_follows_the_data_folder() -> None:
    assert load_settings({"SLUICE_DATA_DIR": "/data"}).reports.directory == Path("/data/reports")


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_one_line_each() -> None:
    given = {"PORT": "http", "DB_HOST": "db", "SLUICE_DB_POOL": "0", "SLUICE_DRAIN_DELAY": "soon", "SLUICE_PROT": "1"}
    lines = mistakes(given)
    assert sorted(line.partition(":")[0] for line in lines) == sorted(
        [*given.keys() - {"DB_HOST"}, "DB_NAME", "DB_USER"]
    )
    assert not [line for line in lines if "\n" in line]


def test_a_value_with_line_breaks_is_told_in_one_line() -> None:
    (line,) = mistakes({"PORT": "1\n2\r3\u2028"})
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("name", ["DB_USER", "DB_NAME"])
def test_with_a_server_its_user_and_database_are_needed(name: str) -> None:
    (line,) = mistakes({key: value for key, value in MYSQL.items() if key != name})
    assert line.startswith(f"{name}: ")
    assert "DB_HOST" in line


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SLUICE_DB_POOLS", "SLUICE_DB_POOL"),
        ("SLUICE_DRAIN_TIMOUT", "SLUICE_DRAIN_TIMEOUT"),
        ("SLUICE_IOTHREADS", "SLUICE_IO_THREADS"),
        ("SLUICE_REPORT_DIR", "SLUICE_REPORTS_DIR"),
        ("SLUICE_STALL_TIME", "SLUICE_STALL_TIMEOUT"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    (line,) = mistakes({name: "1"})
    assert line.startswith(f"{name}: ")
    assert line.endswith(f"did you mean {nearest}?")


@pytest.mark.parametrize("name", ["SLUICE_", "SLUICE_\u540d", "SLUICE_" + "X" * 1000])
def test_a_name_that_resembles_none_is_refused_too(name: str) -> None:
    (line,) = mistakes({name: "1"})
    assert line.startswith(f"{name}: ")


def test_names_of_others_are_no_mistake() -> None:
    assert load_settings({"PATH": "/bin", "DB_POOL": "x", "SLUICED": "x", "UV_CACHE_DIR": "x"}) == load_settings({})


# -- the alias ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["1", "16", "1024"])  # 1024: the most that libuv takes
def test_uv_threadpool_size_is_understood(size: str) -> None:
    assert load_settings({"UV_THREADPOOL_SIZE": size}).threads.io == int(size)


def test_the_name_of_our_own_wins_over_the_alias() -> None:
    given = {"UV_THREADPOOL_SIZE": "16", "SLUICE_IO_THREADS": "4"}
    assert load_settings(given).threads.io == 4
    assert load_settings(given | {"UV_THREADPOOL_SIZE": "nonsense"}).threads.io == 4
    assert load_settings(given | {"SLUICE_IO_THREADS": ""}).threads.io == 16


def test_a_mistake_names_the_alias_when_that_was_given() -> None:
    (line,) = mistakes({"UV_THREADPOOL_SIZE": "many"})
    assert line.startswith("UV_THREADPOOL_SIZE: 'many'")


# -- secrets -----------------------------------------------------------------------------------------------------------

SECRET = "tr0ub4dor"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_never_shown(name: str) -> None:
    settings = load_settings(MYSQL | {name: SECRET})
    shown = [repr(settings), str(settings), f"{settings.database}", *describe(settings)]
    assert SECRET not in "\n".join(shown)


@pytest.mark.parametrize("name", SECRETS)
def test_no_mistake_tells_a_secret(name: str) -> None:
    lines = mistakes(dict.fromkeys(REFUSED, "?") | {name: SECRET, f"SLUICE_{name}": SECRET})
    assert len(lines) > 10
    assert SECRET not in "\n".join(lines)


def test_the_password_of_the_database_is_a_secret() -> None:
    assert SECRETS == ["DB_PASS"]
    assert "database.password = ********" in describe(load_settings(MYSQL | {"DB_PASS": SECRET}))


def test_a_secret_is_taken_as_it_is() -> None:
    assert load_settings(MYSQL | {"DB_PASS": " with blanks "}).database.password == " with blanks "


def test_every_setting_is_described_in_a_line() -> None:
    settings = load_settings(MYSQL)
    rooms = [(room, getattr(settings, room.name)) for room in dataclasses.fields(settings)]
    names = [f"{room.name}.{spec.name}" for room, part in rooms for spec in dataclasses.fields(part)]
    assert [line.partition(" = ")[0] for line in describe(settings)] == names


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.server.port = 1  # type: ignore[misc]


# -- units -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("30s", 30.0),
        ("30 s", 30.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("2min", 120.0),
        ("1h", 3600.0),
        ("8760h", 365 * 86_400.0),
    ],
)
def test_a_time_may_carry_a_unit(text: str, seconds: float) -> None:
    assert load_settings({"SLUICE_IDLE_TIMEOUT": text}).server.idle_timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("30", 30),
        ("30B", 30),
        ("1KiB", 1024),
        ("1MiB", 2**20),
        ("5GiB", 5 * 2**30),
        ("1 TiB", 2**40),
        ("0.5KiB", 512),
    ],
)
def test_a_size_may_carry_a_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1MB", "1mib", "1s", "1e3", "KiB", "nan", "9" * 400, "1 2"])
def test_what_is_no_size_is_none(text: str) -> None:
    assert parse_bytes(text) is None


# -- the .env file -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty; and an environment without settings."""
    for name in [name for name in os.environ if name.startswith("SLUICE_") or name in REFUSED]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_without_an_env_file_the_environment_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "4000")
    assert read_environment() == dict(os.environ)
    assert load_settings().server.port == 4000


def test_the_env_file_of_the_current_folder_is_read(folder: Path) -> None:
    (folder / ".env").write_text("# settings\nexport PORT=4000\nDB_NAME='a b'\n\nSLUICE_DRAIN_DELAY=\"5s\" # five\n")
    settings = load_settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 4000)
    assert (settings.database.name, settings.server.drain_delay) == ("a b", 5.0)


@pytest.mark.parametrize("line", ["PORT 4000", "HOST", "=3"])
def test_a_line_of_the_env_file_that_sets_nothing_is_told(folder: Path, line: str) -> None:
    (folder / ".env").write_text(f"DB_NAME=a\n{line}\n")
    with pytest.raises(StartError, match=r"\.env: line 2: is no NAME=VALUE"):
        load_settings()


def test_the_environment_wins_over_the_env_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("PORT=4000\nHOST=0.0.0.0\n")
    monkeypatch.setenv("PORT", "5000")
    settings = load_settings()
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 5000)


def test_reading_the_env_file_leaves_the_environment_as_it_is(folder: Path) -> None:
    (folder / ".env").write_text("PORT=4000\n")
    load_settings()
    assert "PORT" not in os.environ


def test_a_password_in_the_env_file_is_taken_literally_between_single_quotes(folder: Path) -> None:
    (folder / ".env").write_text("DB_HOST=db\nDB_USER=u\nDB_NAME=n\nDB_PASS='pa$$ ${HOME} #1'\n")
    assert load_settings().database.password == "pa$$ ${HOME} #1"


def test_a_mistake_in_the_env_file_is_told_like_any_other(folder: Path) -> None:
    (folder / ".env").write_text("PORT=http\nSLUICE_PROT=1\n")
    with pytest.raises(StartError) as caught:
        load_settings()
    assert [line.partition(":")[0] for line in caught.value.lines] == ["SLUICE_PROT", "PORT"]


def test_an_env_file_that_is_no_text_is_told_in_one_line(folder: Path) -> None:
    (folder / ".env").write_bytes(b"PORT=\xff\n")
    with pytest.raises(StartError) as caught:
        load_settings()
    (line,) = caught.value.lines
    assert ".env: cannot be read" in line


def test_a_folder_called_env_is_not_read(folder: Path) -> None:
    (folder / ".env").mkdir()
    assert load_settings() == load_settings({})
