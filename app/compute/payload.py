"""What a task is given, on its way to a worker process: in a message, or in a file without a name."""

from __future__ import annotations

import msgspec


class Inline(msgspec.Struct, frozen=True):
    """JSON that is short enough for a message."""

    data: bytes


class InFile(msgspec.Struct, frozen=True):
    """JSON in a file of this process, such as one in memory (memfd_create(2)), which whoever made it closes when the
    call has ended. descriptor: open for reading and writing: the file is empty once the call has succeeded. size: in
    bytes."""

    descriptor: int
    size: int


type Payload = Inline | InFile
