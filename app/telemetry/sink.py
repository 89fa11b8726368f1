"""Where the lines of the log go: to what may be slow, full, or never read. Nobody who logs waits for it."""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

_MOST_BYTES = 1024 * 1024
# Under load lines leave together, so often, or when there are so many: each time that a thread has to get hold of the
# interpreter, the event loop stands still for longer than all that the lines take.
_PAUSE_SECONDS = 0.05
_MANY_BYTES = 256 * 1024
# Made one after the other, lines take a part of the time that each takes by itself.
_MADE_TOGETHER = 64


class Sink[R]:
    """Lines on their way to ``descriptor``, written by a thread of its own.

    tell: makes the line that says how many were dropped. make: makes those of records, one line each; it must not
    raise. apart: False where whoever logs may wait, and writes itself. dropped: lines, since the start.

    Bound: `_MOST_BYTES`, and `_MADE_TOGETHER` records; lines past it are dropped, those that were made together at
    once, and how many were is told at their place once the descriptor takes lines again. Lines leave in the order in
    which they came, into a pipe each as a whole, also where others write into it; what cannot be written, because the
    disk is full or nobody is at the other end, is lost.
    """

    def __init__(
        self, descriptor: int, tell: Callable[[int], bytes], make: Callable[[Sequence[R]], bytes], *, apart: bool = True
    ) -> None:
        self._descriptor = descriptor
        self._tell = tell
        self._make = make
        self._apart = apart
        # Reentrant: what is collected while it is held may have something to say.
        self._lock = threading.RLock()
        self._records: deque[R] = deque()
        self._making = threading.Lock()
        self._lines: list[bytes] = []  # each a line, or several of them
        self._size = 0
        self.dropped = self._dropped = 0
        self._thread: threading.Thread | None = None
        self._sleeps = True
        # Locks that the thread waits for, and others release: an event's wait takes the interpreter several times.
        self._wake = _held()
        self._hurry = _held()
        self._hurries = False
        self._idle = threading.Event()
        self._idle.set()
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        self._most_at_once = select.PIPE_BUF if is_pipe else _MANY_BYTES

    def put(self, line: bytes) -> None:
        """Writes ``line``, which ends with its line break, soon. From any thread; never blocks."""
        if not self._apart:
            _write(self._descriptor, line)
            return
        self._make_lines()  # of what came before it
        self._add(line)
        if self._sleeps:
            self._wake_up()

    def put_record(self, record: R) -> None:
        """`put` of the line that is made of ``record``, with those of others. For one thread, the event loop's."""
        if not self._apart:
            _write(self._descriptor, self._make([record]))
            return
        self._records.append(record)
        if self._sleeps:
            self._wake_up()
        elif len(self._records) >= _MADE_TOGETHER:
            self._make_lines()

    def make_records(self) -> None:
        """Makes what is made of the records there are, now."""
        with self._making:
            self._make_all()

    def _make_lines(self) -> None:
        """Likewise; where another thread is at it, that one does it."""
        while self._records and self._making.acquire(blocking=False):
            try:
                self._make_all()
            finally:
                self._making.release()

    def _make_all(self) -> None:
        records = self._records
        if records:
            self._add(self._make([records.popleft() for _ in range(len(records))]))
            if self._sleeps:  # the thread found nothing while they were being made
                self._wake_up()

    def _add(self, lines: bytes) -> None:
        if not lines:
            return
        with self._lock:
            if self._size + len(lines) > _MOST_BYTES:
                count = lines.count(b"\n")
                self._dropped += count
                self.dropped += count
            else:
                self._lines.append(lines)
                self._size += len(lines)
            if self._size >= _MANY_BYTES:
                self._end_pause()

    def _wake_up(self) -> None:
        with self._lock:
            if not self._sleeps:
                return
            self._sleeps = False
            self._idle.clear()
        self._wake.release()
        if self._thread is None:
            self._start()

    def write(self, text: str) -> None:
        """`put`, as a stream's."""
        if text:
            self.put(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Nothing: a stream has it. See `drain`."""

    def drain(self, seconds: float) -> bool:
        """Blocks until all has been written, for ``seconds`` at most; whether it has. For the end of a process."""
        with self._lock:
            self._hurries = True
            self._end_pause()
        return self._idle.wait(seconds)

    def _end_pause(self) -> None:
        """With the lock, so that nobody releases it a second time."""
        if self._hurry.locked():
            self._hurry.release()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is at its end; or there are too many threads
            self._thread = None
            self._wake.acquire(blocking=False)
            self._write_all()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            self._write_all()
            # An answer's line is there as soon as the answer; those of a crowd come together.
            if not self._hurries:
                self._hurry.acquire(timeout=_PAUSE_SECONDS)

    def _write_all(self) -> None:
        while True:
            self._make_lines()
            with self._lock:
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
                if not (lines or dropped):
                    self._sleeps = True  # from now on who puts one wakes us; the last one may not have seen it
                    if self._records:
                        self._sleeps = False
                        continue
                    self._idle.set()
                    return
            for piece in _pieces(b"".join(lines), self._most_at_once):
                _write(self._descriptor, piece)
                with self._lock:
                    self._size -= len(piece)
            if dropped:
                _write(self._descriptor, self._tell(dropped))


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _pieces(lines: bytes, most: int) -> Iterator[bytes]:
    """``lines`` in pieces of whole lines, up to ``most`` bytes each; a longer line is one by itself."""
    start = 0
    while len(lines) - start > most:
        end = lines.rfind(b"\n", start, start + most) + 1 or lines.find(b"\n", start + most) + 1 or len(lines)
        yield lines[start:end]
        start = end
    if start < len(lines):
        yield lines[start:]


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # somebody who has it too wants it so
            _wait_writable(descriptor)
        except OSError:
            return


def _wait_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
    time.sleep(0.001)  # a pipe may have room, and not enough for a line that has to be whole
