"""Logs as they come out of a process: JSON lines away from a terminal, coloured ones on it.

In processes of their own, for the configuration is one for the whole process, and follows its standard error.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = r"""
import logging, warnings
from contextlib import suppress
from pathlib import Path

import structlog
import trio

from app.flow.request import RequestScope, current_request
from app.telemetry.logs import configure_logs

configure_logs()
log = structlog.get_logger()

log.debug("a detail")
logging.getLogger("some.library").debug("a detail")
log.info("plain", number=1, nothing=None, path=Path("/x"), text="naïve\nsecond line")
log.info("hostile", path="/\x1b[2J\x1b[H")
with suppress(UnicodeError):
    log.info("lone surrogate", path="\udcff")
log.info("odd values", error=ValueError("x"), kind=ValueError, many={1, 2}, big=2**70)
logging.getLogger("some.library").warning("from a %s", "library", extra={"more": "of it"})
logging.getLogger("alembic.runtime.migration").info("a step")
warnings.warn("something is old", stacklevel=1)
try:
    1 // 0
except ZeroDivisionError:
    log.exception("failed")
    logging.getLogger("some.library").exception("failed there")


async def main():
    current_request.set(RequestScope("id-1", trace_id="trace-1"))
    log.info("in a request")
    logging.getLogger("some.library").info("in a library in a request")
    await trio.to_thread.run_sync(lambda: log.info("in a thread"))
    await trio.to_thread.run_sync(lambda: logging.getLogger("some.library").info("in a library in a thread"))
    current_request.set(RequestScope("id-2"))
    log.info("in another request")


trio.run(main)
log.info("after all requests")
"""


def run(*, stderr: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """What came out, line by line; each is JSON."""
    done = run(stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    return [json.loads(line) for line in done.stderr.decode().splitlines()]


def line_of(lines: list[dict[str, Any]], event: str) -> dict[str, Any]:
    (line,) = [line for line in lines if line["event"] == event]
    return line


def test_each_line_has_an_event_a_level_and_a_time(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert line["event"]
        assert line["level"] in {"info", "warning", "error"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


def test_values_arrive_as_json(lines: list[dict[str, Any]]) -> None:
    line = line_of(lines, "plain")
    assert (line["number"], line["nothing"], line["text"]) == (1, None, "naïve\nsecond line")
    assert "/x" in line["path"]


def test_no_value_keeps_a_line_from_being_written(lines: list[dict[str, Any]]) -> None:
    assert line_of(lines, "odd values")["error"] == "ValueError('x')"


def test_text_that_is_no_unicode_does_not_keep_a_line_from_being_written(lines: list[dict[str, Any]]) -> None:
    # Such as the name of a file, or the words of an exception that tell one.
    assert "path" in line_of(lines, "lone surrogate")


def test_details_are_left_out(lines: list[dict[str, Any]]) -> None:
    events = [line["event"] for line in lines]
    assert "a detail" not in events
    assert "a step" not in events


def test_libraries_log_the_same_way(lines: list[dict[str, Any]]) -> None:
    line = line_of(lines, "from a library")
    assert (line["level"], line["more"]) == ("warning", "of it")


def test_warnings_are_logged(lines: list[dict[str, Any]]) -> None:
    (line,) = [line for line in lines if "something is old" in line["event"]]
    assert line["level"] == "warning"


@pytest.mark.parametrize("event", ["failed", "failed there"])
def test_an_exception_is_one_line_with_its_traceback(lines: list[dict[str, Any]], event: str) -> None:
    line = line_of(lines, event)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last)")
    assert line["exception"].splitlines()[-1].startswith("ZeroDivisionError")


@pytest.mark.parametrize(
    "event", ["in a request", "in a library in a request", "in a thread", "in a library in a thread"]
)
def test_what_a_request_does_is_logged_under_its_id_and_trace(lines: list[dict[str, Any]], event: str) -> None:
    line = line_of(lines, event)
    assert (line["request_id"], line["trace_id"]) == ("id-1", "trace-1")


def test_a_request_without_a_trace_has_none_in_its_lines(lines: list[dict[str, Any]]) -> None:
    line = line_of(lines, "in another request")
    assert line["request_id"] == "id-2"
    assert "trace_id" not in line


def test_outside_a_request_there_is_no_id(lines: list[dict[str, Any]]) -> None:
    assert "request_id" not in line_of(lines, "after all requests")


# -- on a terminal -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screen() -> str:
    """What a terminal shows, with its control sequences."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # how Linux says that nobody has the other end any more
    finally:
        os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    return shown.decode()


def test_on_a_terminal_lines_are_coloured(screen: str) -> None:
    plain = next(line for line in screen.splitlines() if "plain" in line)
    assert "\x1b[" in plain
    assert not plain.startswith("{")
    for event in ("from a library", "something is old", "in a thread", "ZeroDivisionError"):
        assert event in screen


def test_on_a_terminal_the_id_of_the_request_is_shown(screen: str) -> None:
    assert "id-1" in next(line for line in screen.splitlines() if "in a thread" in line)


def test_what_a_client_sends_cannot_steer_the_terminal(screen: str) -> None:
    # A path may hold %1B, which must not clear the screen, or %0A, which must not forge a line.
    assert "hostile" in screen
    assert "\x1b[2J" not in screen
    assert not [line for line in screen.splitlines() if line.startswith("second line")]
