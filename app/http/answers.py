"""An answer as a value, and the routes that give one, on the shortest way from the wire and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import msgspec

type Fields = Sequence[tuple[bytes, bytes]]


class OpenFile(Protocol):
    """An open file that is to be sent; ``close`` is idempotent."""

    @property
    def descriptor(self) -> int: ...
    def read_nowait(self, start: int, stop: int) -> bytes | bytearray | None: ...
    async def read(self, start: int, stop: int) -> bytes: ...
    def chunks(self, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...
    def pieces(self, start: int, stop: int, size: int) -> AsyncGenerator[bytes]: ...
    def close(self) -> None: ...


class FilePart(msgspec.Struct):
    """Bytes ``start`` up to ``stop`` of ``file``, which whoever sends them closes."""

    file: OpenFile
    start: int
    stop: int


class Streamed(msgspec.Struct):
    """A body that is made while it is sent.

    chunks: opened when it is sent, and closed however that ends. An error before the first chunk is still answered as
    one; after it, the answer is cut. trailers: called at the end, for clients that take trailers.
    """

    chunks: AbstractAsyncContextManager[AsyncIterator[bytes]]
    trailers: Callable[[], Fields] | None = None


class Answer(msgspec.Struct):
    """headers: names in lower case, without ``Content-Length``, which follows from the body; a tuple where many answers
    have the same."""

    status: int
    headers: Fields
    body: bytes | FilePart | Streamed = b""


type Handler = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Answer]]


@dataclass(frozen=True)
class ShortRoute:
    """A route for GET and HEAD that ends in one parameter, or has none.

    prefix: what stands before the parameter, ASCII, such as ``/api/thing/``; without one it is the whole path.
    parameter: its name; empty if there is none. meaning: in a line.
    fields: names of the request's fields that the answer depends on, in lower case.
    handler: called with the method (GET or HEAD), the parameter as it was meant (percent-decoded), those of these
        fields that there are, by name, several of one name joined by a comma, and the query as it came.
    """

    prefix: str
    parameter: str
    meaning: str
    fields: frozenset[bytes]
    handler: Handler

    @cached_property
    def template(self) -> str:
        """Its path, the parameter in braces."""
        return f"{self.prefix}{{{self.parameter}}}" if self.parameter else self.prefix

    @cached_property
    def slashes(self) -> int:
        """That its path has."""
        return self.prefix.count("/")


@dataclass(slots=True)
class Posted:
    """A request with a body.

    fields: those that the route wants, by name, several of one name joined by a comma. body: as it comes, once.
    length: of the body, in bytes, where it was announced. client: its address, or nothing.
    """

    fields: Mapping[str, str]
    body: AsyncIterable[bytes]
    length: int | None
    client: str


@dataclass(frozen=True)
class ShortPost:
    """A route for POST.

    path: the whole of it. meaning: in a line. fields: names of those of the request's fields that the handler looks
    at, in lower case.
    """

    path: str
    meaning: str
    fields: frozenset[bytes]
    handler: Callable[[Posted], Awaitable[Answer]]
