"""Files in memory (memfd_create(2)), by which processes share what is too large for a message."""

from __future__ import annotations

import os

type Bytes = bytes | bytearray


def memory_file(name: str, data: Bytes = b"") -> int:
    """A file that holds ``data``; its descriptor is the caller's to close. *Errors*: OSError; there is no file then."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        write_all(descriptor, data)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: Bytes) -> None:
    """*Errors*: OSError, after a part of it."""
    with memoryview(data) as whole:
        written = 0
        while written < len(whole):
            written += os.write(descriptor, whole[written:])
