"""A connection's bytes, cleartext or TLS: every wait can be cancelled, every write has a stall limit."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

import trio

from app.flow.threads import ThreadPool
from app.wire.readiness import Readiness, Watched
from app.wire.response import Buffer

# A little less than what malloc would ask the kernel for, and give back, each time.
READ_BYTES = 128 * 1024 - 512
# What a thread hands to the kernel at most before the event loop sees to cancellation and to the stall limit again.
_PIECE_BYTES = 4 * 1024 * 1024
# A TLS record holds this much; the stall limit asks for progress once a record.
_RECORD_BYTES = 16 * 1024
TURNS = 16


class Stalled(Exception):
    """No byte moved for as long as the stall limit."""


class Gone(Exception):
    """The peer has left, or we have closed."""


class Transport(Protocol):
    """Bytes in, bytes out, for one task each.

    sends_files: whether `send_file` is there. watched: what the socket tells of the peer.

    *Errors*: Gone, Stalled. *Cancellation*: of a write may leave a part of it sent; nothing may follow then.
    """

    sends_files: bool
    watched: Watched

    async def receive(self, turns: int = TURNS, *, stoppable: bool = False) -> bytes:
        """What has come, up to `READ_BYTES`; empty at the end, or, if it is ``stoppable``, once `stop_waiting` was
        called and nothing is there.

        turns: how often in a row this may return without giving way to other tasks.
        """
        ...

    def write(self, buffers: Sequence[Buffer]) -> Buffer:
        """Sends what goes without waiting; the rest of it, for `send`."""
        ...

    async def send(self, data: Buffer) -> None: ...

    async def send_file(self, descriptor: int, start: int, count: int) -> None:
        """``count`` bytes of a file. *Errors*: also EOFError, where it has fewer."""
        ...

    def cork(self, *, on: bool) -> None:
        """Holds back what does not fill a packet, or lets it go; before and after `send_file`."""
        ...

    async def end(self) -> None:
        """FIN, over TLS announced (RFC 8446 6.1): no more comes from us. What `receive` returns then is no message."""
        ...

    def stop_waiting(self) -> None:
        """`receive` returns now, or the next time, rather than wait; for a body it is not ``stoppable``."""
        ...

    def close(self) -> None: ...

    def reset(self) -> None:
        """Closes with RST, which no peer takes for the end of a body."""
        ...


class PlainTransport:
    """Cleartext, on the socket itself."""

    sends_files = True

    def __init__(self, stream: trio.SocketStream, readiness: Readiness, threads: ThreadPool, stall: float) -> None:
        self._stream = stream
        self._descriptor = stream.socket.fileno()
        self._readiness = readiness
        self._threads = threads
        self._stall = stall
        self._turns = 0
        self._stopped = False
        self._drained = False
        self.watched = readiness.watch(self._descriptor, reads=True)

    async def receive(self, turns: int = TURNS, *, stoppable: bool = False) -> bytes:
        while True:
            # No system call is needed to know that there is nothing.
            if self._drained and not (stoppable and self._stopped):
                if not self.watched.ready:
                    self._turns = -1  # whoever waits gives way
                await self.watched.readable()
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                if stoppable and self._stopped:
                    return b""
                self._drained = True
            except OSError:
                return b""
            else:
                # What comes after a read that was not filled is told anew; the end, once it was read, is not.
                self._drained = 0 < len(data) < READ_BYTES and not self.watched.gone
                self._turns += 1
                if self._turns >= turns:  # what never has to wait would keep the loop to itself
                    self._turns = 0
                    await trio.lowlevel.checkpoint()
                return data

    def write(self, buffers: Sequence[Buffer]) -> Buffer:
        try:
            sent = os.writev(self._descriptor, buffers)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Gone from error
        if sent == sum(map(len, buffers)):
            return b""
        return memoryview(b"".join(buffers) if len(buffers) > 1 else buffers[0])[sent:]

    async def send(self, data: Buffer) -> None:
        left = memoryview(data)
        while left:
            await self._writable()
            left = self.write((left,))

    async def send_file(self, descriptor: int, start: int, count: int) -> None:
        while count:
            size = min(count, _PIECE_BYTES)
            sent = await self._threads.run(partial(self._send_piece, descriptor, start, size))
            if sent == 0:
                raise EOFError("the file became shorter while it was sent")
            if sent < 0:
                await self._writable()
                continue
            start, count = start + sent, count - sent

    def cork(self, *, on: bool) -> None:
        with suppress(OSError, trio.ClosedResourceError):  # a socket of the file system knows no packets
            self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    async def end(self) -> None:
        with suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_WR)

    def stop_waiting(self) -> None:
        self._stopped = True
        self.watched.wake()

    def close(self) -> None:
        if self._descriptor >= 0:
            self._readiness.forget(self._descriptor)
            self._descriptor = -1
            self._stream.socket.close()

    def reset(self) -> None:
        _reset_at_close(self._stream)
        self.close()

    def _send_piece(self, descriptor: int, start: int, count: int) -> int:
        """In a thread: bytes sent, 0 at the end of the file, -1 where the socket is full."""
        try:
            return os.sendfile(self._descriptor, descriptor, start, count)
        except BlockingIOError:
            return -1
        except OSError as error:
            raise Gone from error

    async def _writable(self) -> None:
        self._turns = 0
        with trio.move_on_after(self._stall) as waiting:
            await trio.lowlevel.wait_writable(self._descriptor)
        if waiting.cancelled_caught:
            raise Stalled


class TlsTransport:
    """TLS, by Trio."""

    sends_files = False

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], readiness: Readiness, stall: float) -> None:
        self._stream = stream
        self._descriptor = stream.transport_stream.socket.fileno()
        self._readiness = readiness
        self._stall = stall
        self._stopped = False
        self._reading: trio.CancelScope | None = None
        self._source: trio.abc.ReceiveStream = stream
        self._turn = trio.Lock()
        self.watched = readiness.watch(self._descriptor, reads=False)

    async def receive(self, turns: int = TURNS, *, stoppable: bool = False) -> bytes:
        with trio.CancelScope() as reading:
            if stoppable:
                self._reading = reading
                if self._stopped:
                    reading.cancel()
            try:
                return bytes(await self._source.receive_some(READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return b""
            finally:
                self._reading = None
        return b""

    def write(self, buffers: Sequence[Buffer]) -> Buffer:
        """Nothing: records take their turn."""
        return b"".join(buffers) if len(buffers) > 1 else buffers[0]

    async def send(self, data: Buffer) -> None:
        left = memoryview(data)
        try:
            async with self._turn:  # a 100 may be on its way while the answer begins
                while left:
                    with trio.fail_after(self._stall):
                        await self._stream.send_all(left[:_RECORD_BYTES])
                    left = left[_RECORD_BYTES:]
        except trio.TooSlowError as error:
            raise Stalled from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Gone from error

    async def send_file(self, descriptor: int, start: int, count: int) -> None:
        raise NotImplementedError  # sends_files

    def cork(self, *, on: bool) -> None: ...

    async def end(self) -> None:
        # What comes now is read as it is: it is dropped, and OpenSSL takes data after its own end for an error.
        self._source = self._stream.transport_stream
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            # `aclose` says no more than FIN in streams that are ``https_compatible``, and closes.
            stream = cast("Any", self._stream)
            try:
                await stream._retry(stream._ssl_object.unwrap, ignore_want_read=True)
            except trio.BrokenResourceError:  # so is what had come before; by then it has made its own end
                await self._stream.transport_stream.send_all(stream._outgoing.read())
        with suppress(OSError):
            self._stream.transport_stream.socket.shutdown(socket.SHUT_WR)

    def stop_waiting(self) -> None:
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    def close(self) -> None:
        if self._descriptor >= 0:
            self._readiness.forget(self._descriptor)
            self._descriptor = -1
            self._stream.transport_stream.socket.close()

    def reset(self) -> None:
        _reset_at_close(self._stream.transport_stream)
        self.close()


def _reset_at_close(stream: trio.SocketStream) -> None:
    with suppress(OSError, trio.ClosedResourceError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
