"""The server's side of what it has in common with one worker process: two pipes and a cell."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from app.compute.cells import make_cell
from app.compute.messages import MOST_PACKET_BYTES, Frames, Message, decode_start

# Of most messages, several; the rest comes with the next look. Larger ones would each be given their memory anew.
_READ_BYTES = 32 * 1024


class WorkerPipes:
    """calls, answers, cell: descriptors that the worker opens anew. Nothing here blocks. *Errors*: OSError where there
    are too many files.

    A call in the pipe is read either by the worker, which then begins it, or by `take_back`, and then it never begins:
    the kernel decides, so that there is nothing to race for. Bound: 16 calls, one for each page of a pipe.
    """

    def __init__(self) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        with ExitStack() as opened:
            self.calls, self._to_worker = os.pipe2(flags | os.O_DIRECT)  # in packets
            opened.callback(os.close, self.calls)
            self._sending = opened.enter_context(ExitStack())
            self._sending.callback(os.close, self._to_worker)
            self._from_worker, self.answers = os.pipe2(flags)
            opened.callback(os.close, self._from_worker)
            opened.callback(os.close, self.answers)
            self._cell, self.cell = make_cell()
            opened.callback(os.close, self.cell)
            opened.callback(self._cell.close)
            self._opened = opened.pop_all()
        self._frames = Frames()

    def fileno(self) -> int:
        """Readable when there are answers."""
        return self._from_worker

    def put(self, packet: bytes) -> None:
        """*Errors*: BlockingIOError past the bound."""
        os.write(self._to_worker, packet)

    def take_back(self) -> set[int]:
        """The numbers of the calls that have not begun, and now never do."""
        taken: set[int] = set()
        with suppress(BlockingIOError):
            while packet := os.read(self.calls, MOST_PACKET_BYTES):
                taken.add(decode_start(packet).number)
        return taken

    def read(self) -> list[Message] | None:
        """What the worker has said by now; not all of it, if that is much. None where it is silent."""
        try:
            return list(self._frames.feed(os.read(self._from_worker, _READ_BYTES)))
        except BlockingIOError:
            return None

    def end(self, number: int) -> None:
        """Tells the task of that call to end, if it is the one that runs."""
        self._cell.value = number

    def finish(self) -> None:
        """There will be no more calls. Idempotent."""
        self._sending.close()

    def close(self) -> None:
        self._opened.close()
