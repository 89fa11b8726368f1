"""The watchdog: says what the event loop is at when it does not answer.

A thread looks from outside, for nothing on the loop can: once an incident it logs the stack of the loop's thread, with
the request that it belongs to, and when that is over, how long it was.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from app.telemetry.lag import LoopLag
from app.telemetry.nodes import Named

_log = structlog.get_logger()

# While the loop does not answer, so often it is asked whether it does again.
_LOOK_SECONDS = 0.02
_LEAST_SECONDS = 0.005
_END_SECONDS = 1.0
_MOST_FRAMES = 40
# Where the loop waits for something to do.
_WAITS = ("get_events", "_io_epoll.py")

type Describe = Callable[[FrameType], Named | None]


@contextmanager
def watching(lag: LoopLag, seconds: float, describe: Describe) -> Generator[None]:
    """Watches the loop of this thread, whose ``lag`` is measured, until the block is left; the thread ends with it.

    seconds: for which the loop may not answer; 0: for ever. describe: the request that a frame serves, if it is one's;
    called in another thread.
    """
    if not seconds:
        yield
        return
    watchdog = Watchdog(lag, seconds, describe, threading.get_ident())
    thread = threading.Thread(target=watchdog.run, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.end()
        thread.join(_END_SECONDS)


class Watchdog:
    """loop: the ident of the thread that is watched."""

    def __init__(self, lag: LoopLag, seconds: float, describe: Describe, loop: int) -> None:
        self._lag = lag
        self._seconds = seconds
        self._describe = describe
        self._loop = loop
        self._clock = time.pthread_getcpuclockid(loop)
        self._ended = threading.Event()

    def end(self) -> None:
        self._ended.set()

    def run(self) -> None:
        """Looks when the loop would be late; once an incident is told, until it is over."""
        told, awake = -1, 0.0
        while not self._ended.is_set():
            beats, now = self._lag.beats, time.monotonic()
            if told not in (-1, beats):
                _log.warning("event loop answers again", seconds=round(self._lag.last, 3))
                told = -1
            late = now - max(self._lag.due, awake)
            if beats == told:
                self._ended.wait(_LOOK_SECONDS)
            elif late >= self._seconds:
                told = beats if self._tell(late) else told
                self._ended.wait(_LOOK_SECONDS)
            elif self._was_held(min(self._seconds, max(_LEAST_SECONDS, self._seconds - late))):
                awake = time.monotonic()

    def _was_held(self, seconds: float) -> bool:
        """Waits for so long; whether that took far longer because the whole process did not run, as after SIGSTOP.

        A call that does not let other threads run does the same to us: but then the loop's thread has run."""
        began, ran = time.monotonic(), time.clock_gettime(self._clock)
        self._ended.wait(seconds)
        late = time.monotonic() - began - seconds
        return late >= self._seconds / 2 and time.clock_gettime(self._clock) - ran < late / 10

    def _tell(self, late: float) -> bool:
        """False where nothing is on the loop: it has been woken late, or just now."""
        frame = sys._current_frames().get(self._loop)
        if frame is None:
            return False
        frames = list(_frames(frame))
        if _is_at(frame, *_WAITS):
            return False
        found = next((named for named in map(self._describe, frames) if named is not None), None)
        about = {} if found is None else {"request": found.name, "request_id": found.request_id}
        _log.warning(
            "event loop does not answer",
            seconds=round(late, 3),
            at=f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})",
            **about,
            stack=_shown(frames),
        )
        return True


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost one out."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_at(frame: FrameType, function: str, file: str) -> bool:
    return frame.f_code.co_name == function and frame.f_code.co_filename.endswith(file)


def _shown(frames: list[FrameType]) -> str:
    """As a traceback, the innermost last. (Which lines they are at is known at this moment only.)"""
    summary = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in reversed(frames[:_MOST_FRAMES]))
    return "".join(summary.format()).rstrip()
