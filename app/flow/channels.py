"""A channel of byte chunks whose bound counts bytes: whoever writes faster than the other reads, waits."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar

import trio

CHANNEL_BYTES = 1024 * 1024
"""What a channel holds, unless it is told otherwise: some pieces, so that neither end often waits for the other."""


class ReaderGone(trio.BrokenResourceError):
    """Nobody reads from the channel any more; whoever writes to it can stop."""


@dataclass(frozen=True)
class ChannelStatistics:
    """max_bytes: the bound. buffered: bytes that are held now. writer_waits, reader_waits: whether that side waits for
    the other. passed: bytes that have been read since the start."""

    max_bytes: int
    buffered: int
    writer_waits: bool
    reader_waits: bool
    passed: int


def bytes_held() -> int:
    """In all channels of this process together."""
    return _State.held


def open_channel(max_bytes: int = CHANNEL_BYTES) -> tuple[Writer, Reader]:
    """The two ends of a channel, each for one task.

    Bound: ``max_bytes``, or one chunk where that alone is larger; past it, `Writer.send` waits.
    """
    state = _State(max_bytes)
    return Writer(state), Reader(state)


class _State:
    """What the two ends share. Trio's channel has no bound of its own here: a chunk gets in once there is credit.

    held: bytes in all channels.
    """

    held: ClassVar[int] = 0

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.send, self.receive = trio.open_memory_channel[bytes](math.inf)
        self.buffered = 0
        self.passed = 0
        self.reader_gone = False
        self.room = trio.lowlevel.ParkingLot()
        self.error: Exception | None = None


class Writer:
    """The end that is written to. Used as a context, it is closed at the end; an error that leaves the context travels
    downstream. (A cancellation does not, as it is somebody else's; but what was cut by it never looks complete.)"""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def send(self, chunk: bytes) -> None:
        """Waits until there is room for ``chunk``, then leaves it there; an empty one is dropped.

        *Cancellation*: ``chunk`` has not been sent. *Errors*: ReaderGone; ClosedResourceError after `close`.
        """
        state = self._state
        await trio.lowlevel.checkpoint_if_cancelled()
        while not state.reader_gone and state.buffered and state.buffered + len(chunk) > state.max_bytes:
            await state.room.park()
        if state.reader_gone:
            raise ReaderGone("nobody reads any more")
        if chunk:
            state.send.send_nowait(chunk)
            state.buffered += len(chunk)
            _State.held += len(chunk)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def close(self) -> None:
        """The end of the stream: the reader gets what is left, then the end. Idempotent."""
        self._state.send.close()

    def fail(self, error: Exception) -> None:
        """The end of the stream, by an error: the reader gets what is left, then that error."""
        self._state.error = self._state.error or error
        self.close()

    def statistics(self) -> ChannelStatistics:
        return _statistics(self._state)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Exception):
            self.fail(error)
        else:
            self.fail(trio.BrokenResourceError("the writer was cancelled"))


class Reader(AsyncIterator[bytes]):
    """The end that is read from: an iterator of chunks. Used as a context, it is closed at the end."""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def __anext__(self) -> bytes:
        """The next chunk.

        *Cancellation*: nothing is lost. *Errors*: whatever the writer failed with; ClosedResourceError after `close`.
        """
        state = self._state
        try:
            chunk = await state.receive.receive()
        except trio.EndOfChannel:
            if state.error is not None:
                raise state.error from None
            raise StopAsyncIteration from None
        return self._passed(chunk)

    async def take(self, most: int) -> bytes:
        """A chunk, and what else is there already, up to about ``most`` bytes; nothing at the end. Else as above."""
        taken = [await anext(self, b"")]
        size = len(taken[0])
        while self._state.buffered and size < most:
            taken.append(self._passed(self._state.receive.receive_nowait()))
            size += len(taken[-1])
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def close(self) -> None:
        """Nothing more is wanted: what is held is dropped, and the writer gets ReaderGone. Idempotent."""
        state = self._state
        state.reader_gone = True
        state.receive.close()
        _State.held -= state.buffered
        state.buffered = 0
        state.room.unpark_all()

    def statistics(self) -> ChannelStatistics:
        return _statistics(self._state)

    def _passed(self, chunk: bytes) -> bytes:
        state = self._state
        state.buffered -= len(chunk)
        _State.held -= len(chunk)
        state.passed += len(chunk)
        state.room.unpark()
        return chunk

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _statistics(state: _State) -> ChannelStatistics:
    return ChannelStatistics(
        max_bytes=state.max_bytes,
        buffered=state.buffered,
        writer_waits=bool(state.room),
        reader_waits=state.send.statistics().tasks_waiting_receive > 0,
        passed=state.passed,
    )
