"""A number that two processes see, and files in memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.compute.cells import Cell, make_cell
from app.compute.memory_files import memory_file, write_all


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_what_one_writes_the_other_reads(values: list[int]) -> None:
    cell, descriptor = make_cell()
    other = Cell(descriptor)
    assert (cell.value, other.value) == (0, 0)
    for value in values:
        cell.value = value
        assert other.value == value
    cell.close()
    assert other.value == values[-1]
    other.close()
    os.close(descriptor)


def test_another_process_reads_it_too() -> None:
    cell, descriptor = make_cell()
    cell.value = 12345
    program = (
        "import os, sys; from app.compute.cells import Cell; "
        "cell = Cell(os.open(sys.argv[1], os.O_RDWR)); print(cell.value); cell.value = 9"
    )
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert (done.stdout, cell.value) == ("12345\n", 9)
    cell.close()
    os.close(descriptor)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_cell_holds_nothing_else(value: int) -> None:
    cell, descriptor = make_cell()
    with pytest.raises(ValueError, match="invalid value"):
        cell.value = value
    cell.close()
    os.close(descriptor)


@pytest.mark.parametrize("data", [b"", b"x", bytearray(b"abc" * 100_000)])
def test_a_file_in_memory_holds_what_it_is_given(data: bytes) -> None:
    descriptor = memory_file("test", data)
    write_all(descriptor, b"more")
    assert os.pread(descriptor, len(data) + 10, 0) == data + b"more"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_file_that_cannot_be_written_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, _: object) -> int:
        written.append(descriptor)
        raise OSError(28, "No space left on device")

    written: list[int] = []
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        memory_file("test", b"x")
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(written[0])
