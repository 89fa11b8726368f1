"""What is said between the server and a worker process.

Calls go as packets through a pipe, each read as a whole or not at all; answers come back as a stream of messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

MOST_PACKET_BYTES = 4096
"""Of one packet: what a pipe keeps together (PIPE_BUF)."""

MOST_SPANS = 64
"""Of one call."""

MOST_RESULT_BYTES = 16 * 1024 * 1024
# With what is around a result.
_MOST_MESSAGE_BYTES = MOST_RESULT_BYTES + 1024

_LENGTH = struct.Struct("!I")


class Garbled(Exception):
    """What came is no answer: something else has written into the pipe, such as a process that a task has forked."""


class GivenReport(msgspec.Struct, frozen=True, array_like=True):
    """A stored report, open in the server. descriptor: the server's."""

    user_id: str
    media_type: str
    size: int
    descriptor: int


class Start(msgspec.Struct, frozen=True, array_like=True):
    """One call. number: of it, and of no other. task: None where the payload is a whole request.

    data: the payload, unless that is in the file ``descriptor``, of ``size`` bytes. traced: whether its spans are
    wanted.
    """

    number: int
    task: str | None
    data: bytes
    descriptor: int | None = None
    size: int = 0
    reports: dict[str, GivenReport] = {}
    traced: bool = False


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The worker, which is the process ``pid``, takes calls."""

    pid: int


class Tired(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The worker has had its calls, or has grown: it goes on, but is to be replaced."""


class Reported(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Progress of a call."""

    number: int
    done: float
    total: float | None
    message: str


class Returned(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Its end. seconds: that it ran. result: JSON."""

    number: int
    seconds: float
    result: bytes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Likewise. name: of the error (`app.errors`). members: JSON, of its problem. trace: for the log."""

    number: int
    seconds: float
    name: str
    detail: str
    members: bytes = b"{}"
    trace: str = ""


class GivenSpan(msgspec.Struct, frozen=True, array_like=True):
    """A part of a call (`app.flow.spans.Span`). parent: another of them; None: the call itself."""

    id: int
    parent: int | None
    name: str
    began: int
    ended: int
    attributes: dict[str, str | int | float | bool]
    is_error: bool = False


class Traced(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """What a call did and when; comes before its end."""

    number: int
    spans: list[GivenSpan]


type Message = Ready | Tired | Reported | Traced | Returned | Failed

encode_start = msgspec.msgpack.Encoder().encode
decode_start = msgspec.msgpack.Decoder(Start).decode
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def frame(message: Message) -> bytes:
    """``message`` as it goes into the stream of answers."""
    encoded = _encode(message)
    return _LENGTH.pack(len(encoded)) + encoded


class Frames:
    """The stream of answers, taken apart. Bound: one message, and what was read together with it. *Errors*: Garbled."""

    def __init__(self) -> None:
        self._read = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        self._read += data
        start = 0
        while len(self._read) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._read, start)
            if length > _MOST_MESSAGE_BYTES:
                raise Garbled(f"a message of {length} bytes")
            stop = start + _LENGTH.size + length
            if len(self._read) < stop:
                break
            with memoryview(self._read) as read, read[start + _LENGTH.size : stop] as message:
                decoded = _decoded(message)
            yield decoded
            start = stop
        del self._read[:start]


def _decoded(message: memoryview) -> Message:
    try:
        return _decode(message)
    except msgspec.DecodeError as error:
        raise Garbled(str(error)) from None
