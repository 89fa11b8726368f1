"""An answer as a value, and the routes that give one: GET and HEAD, on the shortest way from the wire and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

type Fields = Sequence[tuple[bytes, bytes]]


class OpenFile(Protocol):
    """An open file that is to be sent; ``close`` is idempotent."""

    @property
    def descriptor(self) -> int: ...
    def read_nowait(self, start: int, stop: int) -> bytes | bytearray | None: ...
    async def read(self, start: int, stop: int) -> bytes: ...
    def chunks(self, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class FilePart:
    """Bytes ``start`` up to ``stop`` of ``file``, which whoever sends them closes."""

    file: OpenFile
    start: int
    stop: int


@dataclass(slots=True)
class Answer:
    """headers: names in lower case, without ``Content-Length``, which follows from the body; a tuple where many answers
    have the same."""

    status: int
    headers: Fields
    body: bytes | FilePart = b""


type Handler = Callable[[str, str, Mapping[str, str]], Awaitable[Answer]]


@dataclass(frozen=True)
class ShortRoute:
    """A route that ends in one parameter.

    prefix: what stands before the parameter, ASCII, such as ``/api/thing/``. parameter: its name. meaning: in a line.
    fields: names of the request's fields that the answer depends on, in lower case.
    handler: called with the method (GET or HEAD), the parameter as it was meant (percent-decoded), and those of these
        fields that there are, by name, several of one name joined by a comma.
    """

    prefix: str
    parameter: str
    meaning: str
    fields: frozenset[bytes]
    handler: Handler
