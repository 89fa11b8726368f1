"""One number that a process shows to another: a word of memory that both have."""

from __future__ import annotations

import mmap
import os

from app.compute.memory_files import memory_file

_BYTES = 8


class Cell:
    """A whole number from 0, in a file in memory that ``descriptor`` names. It is read and written in one go."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._words = memoryview(self._memory).cast("Q")

    @property
    def value(self) -> int:
        return self._words[0]

    @value.setter
    def value(self, value: int) -> None:
        self._words[0] = value

    def close(self) -> None:
        self._words.release()
        self._memory.close()


def make_cell() -> tuple[Cell, int]:
    """A cell that is 0, and its file's descriptor, the caller's to close."""
    descriptor = memory_file("sluice-cell", bytes(_BYTES))
    try:
        return Cell(descriptor), descriptor
    except BaseException:
        os.close(descriptor)
        raise
