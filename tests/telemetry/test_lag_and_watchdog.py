"""The loop's lag, and the watchdog that says what holds the loop: in process, with a loop that is really held."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from types import FrameType
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import LogCapture

import app.telemetry.watchdog
from app.telemetry.lag import LAG_BUCKETS, LoopLag
from app.telemetry.nodes import Named
from app.telemetry.watchdog import watching
from app.web.task_words import request_of
from app.wire.asgi import Receive, Scope, Send
from tests.web.wire import answer, ask

_WARN_SECONDS = 0.1
_SILENT, _ANSWERS = "event loop does not answer", "event loop answers again"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    captured = LogCapture()
    monkeypatch.setattr(app.telemetry.watchdog, "_log", structlog.wrap_logger(None, processors=[captured]))
    yield captured.entries
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


async def _until(log: list[MutableMapping[str, Any]], event: str, count: int = 1) -> None:
    with trio.fail_after(20):
        while sum(line["event"] == event for line in log) < count:  # noqa: ASYNC110 - a thread writes it
            await trio.sleep(0.01)


async def _until_sampled(lag: LoopLag, samples: int) -> None:
    with trio.fail_after(20):
        while lag.statistics().samples < samples:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.01)


def _no_request(_: FrameType) -> Named | None:
    return None


def _holds_the_loop() -> None:
    time.sleep(10 * _WARN_SECONDS)


async def test_lag_is_counted_in_buckets() -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await _until_sampled(lag, 2)
        _holds_the_loop()
        await _until_sampled(lag, 3)
        nursery.cancel_scope.cancel()
    counted = lag.statistics()
    assert len(counted.counts) == len(LAG_BUCKETS) + 1
    assert sum(counted.counts) == counted.samples
    late = sum(counted.counts[LAG_BUCKETS.index(0.1) + 1 :])
    assert late >= 1
    assert counted.total_seconds > 0.1
    assert lag.due == math.inf


async def test_what_holds_the_loop_is_named_once_an_incident(log: list[MutableMapping[str, Any]]) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with watching(lag, _WARN_SECONDS, _no_request):
            for incident in (1, 2):
                await _until_sampled(lag, lag.beats + 1)
                _holds_the_loop()
                await _until(log, _ANSWERS, incident)
        nursery.cancel_scope.cancel()
    assert [line["event"] for line in log] == [_SILENT, _ANSWERS] * 2
    assert log[0]["at"].startswith("_holds_the_loop (")
    assert "time.sleep(10 * _WARN_SECONDS)" in log[0]["stack"]
    assert "request_id" not in log[0]
    assert log[0]["seconds"] >= _WARN_SECONDS
    assert log[1]["seconds"] >= 2 * _WARN_SECONDS


async def test_the_request_that_holds_the_loop_is_told(log: list[MutableMapping[str, Any]]) -> None:
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        _holds_the_loop()
        await answer(scope, receive, send)

    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with watching(lag, _WARN_SECONDS, request_of):
            await _until_sampled(lag, lag.beats + 1)
            wire = await ask(route, {"x-request-id": "the-slow-one"}, path="/slow")
            await _until(log, _ANSWERS)
        nursery.cancel_scope.cancel()
    assert wire.status == 200
    assert (log[0]["request"], log[0]["request_id"]) == ("GET /slow", "the-slow-one")
    assert "in route" in log[0]["stack"]


async def test_a_call_that_lets_no_other_thread_run_is_told_too(log: list[MutableMapping[str, Any]]) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with watching(lag, _WARN_SECONDS, _no_request):
            await _until_sampled(lag, lag.beats + 1)
            sum(range(100_000_000))  # one instruction, a second or more
            await _until(log, _ANSWERS)
        nursery.cancel_scope.cancel()
    assert log[0]["event"] == _SILENT


async def test_a_loop_that_answers_is_not_reported(log: list[MutableMapping[str, Any]]) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with watching(lag, 5.0, _no_request):
            await _until_sampled(lag, 5)
        nursery.cancel_scope.cancel()
    assert log == []


async def test_zero_is_off(log: list[MutableMapping[str, Any]]) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with watching(lag, 0, _no_request):
            assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
            await _until_sampled(lag, lag.beats + 1)
            _holds_the_loop()
        nursery.cancel_scope.cancel()
    assert log == []


_STOPPED = """
import time, trio
from app.telemetry.lag import LoopLag
from app.telemetry.logs import configure_logs
from app.telemetry.watchdog import watching

async def main():
    configure_logs()
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with watching(lag, 0.2, lambda _: None):
            await trio.sleep(0.2)
            print("runs", flush=True)
            while lag.last < 0.5:
                await trio.sleep(0.01)
            await trio.sleep(0.5)
            print("ran on", flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_a_process_that_was_stopped_is_no_incident() -> None:
    command = [sys.executable, "-c", _STOPPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        time.sleep(1)  # it is how long it was stopped that matters
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=30)
    assert out == b"ran on\n"
    assert err == b""
