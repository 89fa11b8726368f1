"""What a step is: a small, pure, incremental transformer, and what it declares of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from app.errors import BadRequest

MAX_RECORD_BYTES = 1024 * 1024
"""The largest record, and the largest piece of a text that a step holds until it is complete."""

MAX_FIELDS = 4096
"""The most fields of a header, which goes from piece to piece with its transformer."""

PIECE_BYTES = 128 * 1024
"""About what a piece has that a transformer gives; one that could give much more at once gives several."""


class Kind(StrEnum):
    """What bytes are, as far as steps care."""

    BYTES = "bytes"
    TEXT = "text"
    CSV = "csv"
    NDJSON = "ndjson"
    JSON = "json"
    GZIP = "gzip"
    ZSTD = "zstd"


type Place = Literal["loop", "thread", "process"]
"""Where a step runs: on the event loop (well under a millisecond for `PIECE_BYTES`), in a thread (its library releases
the interpreter's lock), or in a worker process (it is Python that takes its time)."""


class Transformer(Protocol):
    """One run of a step over one stream: bytes in as they come, in pieces of any size, bytes out.

    A transformer is pure: no Trio, no I/O, no clock. One that runs in a process is pickled between pieces, and so
    keeps its state in plain attributes.

    Bound: what it holds between calls is what its step declares; a call yields pieces of about `PIECE_BYTES`, unless
    it says that they are larger, one after the other as they are asked for, never empty ones.

    *Errors*: Malformed, from any call, and from the iteration.
    """

    @property
    def done(self) -> bool:
        """Whether nothing of what may still come matters: what is fed from then on is ignored, ``finish`` is due."""
        ...

    def feed(self, piece: bytes) -> Iterable[bytes]:
        """What ``piece`` gives. It has to be iterated to its end before the next call."""
        ...

    def finish(self) -> Iterable[bytes]:
        """What the end of the stream gives. Called once, at last."""
        ...


@dataclass(frozen=True)
class Step:
    """A kind of transformer, as it is asked for: ``NAME`` or ``NAME:ARGUMENTS``.

    arguments: their syntax, for people, such as ``FIELD,…``; empty where there are none. meaning: in a line.
    takes: what it reads; `Kind.BYTES` among them: anything that nobody says is something else.
    gives: what comes out; None: what went in. memory: what it holds, in words, with its bound.
    make: a transformer from the arguments (what stands behind the first colon, or None).
        *Errors*: BadArguments.
    """

    name: str
    arguments: str
    meaning: str
    takes: frozenset[Kind]
    gives: Kind | None
    memory: str
    place: Place
    make: Callable[[str | None], Transformer]


class BadArguments(ValueError):
    """The arguments of a step are not what it takes; the message says what it takes."""


class Malformed(BadRequest):
    """The bytes are not what a step reads. ``detail`` says what is wrong, and where: line or record, and byte offset.

    members: ``offset``, the bytes that went into the step before the first one that is wrong; ``line`` or ``record``,
    from 1, where the step counts them.
    """

    name, title = "malformed-input", "Malformed input"
