"""Bodies in chunks, taken apart as they come (RFC 9112 7.1)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.client import LoadError

_LINE_BYTES = 16 * 1024


class ChunkedBody:
    """ended: whether the last chunk and its trailers are there. *Errors*: LoadError where it is no such body.

    Bound: one line, at most `_LINE_BYTES`.
    """

    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # of the chunk
        self._line = bytearray()
        self._behind_data = False  # the line that ends it is to come
        self._in_trailers = False

    def take(self, received: memoryview) -> Iterator[memoryview]:
        """What is content of ``received``, which goes on where the last one ended. All of it is to be iterated."""
        while received:
            if self.ended:
                raise LoadError("bytes behind the end of a body")
            if self._left:
                content, received = received[: self._left], received[self._left :]
                self._left -= len(content)
                yield content
            else:
                received = self._take_line(received)

    def _take_line(self, received: memoryview) -> memoryview:
        """Returns the rest behind the line, or behind the part of it that is there."""
        some = bytes(received[:256])
        end = some.find(b"\n") + 1
        self._line += some[: end or len(some)]
        if len(self._line) > _LINE_BYTES:
            raise LoadError("a line between chunks without an end")
        if end:
            line, self._line = bytes(self._line), bytearray()
            self._see(line)
        return received[end or len(some) :]

    def _see(self, line: bytes) -> None:
        if not line.endswith(b"\r\n") or (self._behind_data and line != b"\r\n"):
            raise LoadError(f"{line[:60]!r} where a line of a chunk should end")
        if self._behind_data:
            self._behind_data = False
        elif self._in_trailers:
            self.ended = line == b"\r\n"
        else:
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError as error:
                raise LoadError(f"{line[:60]!r} is no chunk's size") from error
            self._in_trailers, self._behind_data = self._left == 0, self._left > 0
