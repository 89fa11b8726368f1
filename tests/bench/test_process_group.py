"""What processes are said to have used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench.process_group import cost, has_ended, process_group, usage

_HOLD = "held = bytearray(b'x' * (60 << 20))"


def test_the_cost_of_a_command_is_that_of_its_children_too(tmp_path: Path) -> None:
    script = f'"$0" -c "{_HOLD}; sum(range(10**7))"; exit 0'
    found = cost(["sh", "-c", script, sys.executable], tmp_path, tmp_path / "log", 30)
    assert found.rss > 60 << 20
    assert found.cpu > 0
    assert found.seconds > 0


def test_a_command_that_fails_or_lasts_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="sh ended with 3:\nsaid"):
        cost(["sh", "-c", "echo said; exit 3"], tmp_path, tmp_path / "log", 30)
    with pytest.raises(RuntimeError, match=r"sh did not end within 0\.1 s"):
        cost(["sh", "-c", "exec sleep 60"], tmp_path, tmp_path / "log", 0.1)


def test_a_mapped_file_is_no_memory_of_its_own(tmp_path: Path) -> None:
    """A process has 60 MiB of a file in its address space, says so, and stays."""
    said, file = tmp_path / "said", tmp_path / "file"
    file.write_bytes(bytes(60 << 20))
    script = """
import mmap, signal, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(mapped[::4096])
print("held", flush=True)
signal.pause()
"""
    with (
        said.open("wb") as output,
        process_group([sys.executable, "-c", script, str(file)], tmp_path, output) as process,
    ):
        while b"held" not in said.read_bytes():
            assert not has_ended(process)
        found = usage(process.pid)
    assert found.rss > 60 << 20
    assert found.anon < 40 << 20


@pytest.mark.parametrize(("depth", "serves"), [(1, True), (2, False)])
def test_what_serves_is_a_process_and_its_children(tmp_path: Path, depth: int, serves: bool) -> None:
    """A process of generation ``depth`` holds 60 MiB, says so, and stays."""
    said = tmp_path / "said"
    command = [sys.executable, "-c", f"import signal; {_HOLD}; print('held', flush=True); signal.pause()"]
    for _ in range(depth):
        command = ["sh", "-c", '"$@"; exit 0', "sh", *command]
    with said.open("wb") as output, process_group(command, tmp_path, output) as process:
        while b"held" not in said.read_bytes():
            assert not has_ended(process)
        found = usage(process.pid)
    assert found.anon > 60 << 20
    assert (found.serving > 60 << 20) == serves
