"""Where the lines of the log go: to what may be slow, full, or never read. Nobody who logs waits for it."""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence

_MOST_BYTES = 1024 * 1024
# Under load lines leave together, so often; for a thread that wakes up takes the event loop's turn.
_PAUSE_SECONDS = 0.01
_WRITE_BYTES = 64 * 1024


class Sink:
    """Lines on their way to ``descriptor``, written by a thread of its own.

    tell: makes the line that says how many were dropped. apart: False where whoever logs may wait, and writes itself.

    Bound: `_MOST_BYTES`; a line past it is dropped, and how many were is told at their place once the descriptor takes
    lines again. Lines leave in the order in which they came, into a pipe each as a whole, also where others write into
    it; what cannot be written, because the disk is full or nobody is at the other end, is lost.
    """

    def __init__(self, descriptor: int, tell: Callable[[int], bytes], *, apart: bool = True) -> None:
        self._descriptor = descriptor
        self._tell = tell
        self._apart = apart
        # Reentrant: what is collected while it is held may have something to say.
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._sleeps = True
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        self._most_at_once = select.PIPE_BUF if is_pipe else _WRITE_BYTES

    def put(self, line: bytes) -> None:
        """Writes ``line``, which ends with its line break, soon. From any thread; never blocks."""
        if not self._apart:
            _write(self._descriptor, line)
            return
        with self._lock:
            if self._size + len(line) > _MOST_BYTES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            if not self._sleeps:
                return
            self._sleeps = False
            self._idle.clear()
        self._wake.set()
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
        self._hurry.set()
        return self._idle.wait(seconds)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is at its end; or there are too many threads
            self._thread = None
            self._write_all()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._write_all()
            # An answer's line is there as soon as the answer; those of a crowd come together.
            self._hurry.wait(_PAUSE_SECONDS)

    def _write_all(self) -> None:
        while True:
            with self._lock:
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
                if not (lines or dropped):
                    self._sleeps = True
                    self._idle.set()
                    return
            for piece in _pieces(lines, self._most_at_once):
                _write(self._descriptor, piece)
                with self._lock:
                    self._size -= len(piece)
            if dropped:
                _write(self._descriptor, self._tell(dropped))


def _pieces(lines: Sequence[bytes], most: int) -> Iterator[bytes]:
    """``lines`` joined to pieces of up to ``most`` bytes; a longer line is one by itself."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > most:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)


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
