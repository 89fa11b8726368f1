"""The log's way out: whoever logs never waits, order is kept, and what was dropped is told where it is missing."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry.sink import Sink, _pieces

_SECONDS = 20.0


@dataclass
class Pipe:
    """What a sink writes into, and nobody reads until `read_until` does."""

    reads: int
    sink: Sink

    def read_until(self, mark: bytes) -> bytes:
        """All that comes, up to a line with ``mark``."""
        found = b""
        while mark not in found:
            assert select.select([self.reads], [], [], _SECONDS)[0], f"nothing more comes after {found[-200:]!r}"
            found += os.read(self.reads, 65536)
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reads, writes = os.pipe()
    sink = Sink[bytes](writes, lambda count: b"dropped %d\n" % count, lambda records: b"".join(records).upper())
    yield Pipe(reads, sink)
    os.close(reads)  # a thread that still writes gets EPIPE
    assert sink.drain(_SECONDS)  # and is done with the descriptor, whose number is another's next
    os.close(writes)


def test_lines_leave_in_the_order_in_which_they_came(pipe: Pipe) -> None:
    for number in range(1000):
        pipe.sink.put(b"line %d\n" % number)
    found = pipe.read_until(b"line 999\n")
    assert found == b"".join(b"line %d\n" % number for number in range(1000))


def test_lines_of_records_are_made_in_their_order_among_others(pipe: Pipe) -> None:
    for number in range(1000):
        pipe.sink.put_record(b"record %d\n" % number)
        if number % 90 == 0:
            pipe.sink.put(b"line %d\n" % number)
    lines = pipe.read_until(b"RECORD 999\n").splitlines()
    assert [line for line in lines if line.startswith(b"RECORD")] == [b"RECORD %d" % number for number in range(1000)]
    assert lines.index(b"line 900") > lines.index(b"RECORD 836")  # but for what is being made just then


def test_a_record_is_told_without_others(pipe: Pipe) -> None:
    for number in range(3):
        pipe.sink.put_record(b"record %d\n" % number)
        assert pipe.read_until(b"\n") == b"RECORD %d\n" % number
        assert pipe.sink.drain(_SECONDS)


def test_where_no_thread_can_be_had_lines_are_written_all_the_same(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for line in (b"one\n", b"two\n"):
            pipe.sink.put(line)
            assert pipe.read_until(b"\n") == line
    pipe.sink.put(b"three\n")
    assert pipe.read_until(b"\n") == b"three\n"


def test_records_that_were_dropped_are_told(pipe: Pipe) -> None:
    for _ in range(3000):
        pipe.sink.put_record(b"x" * 999 + b"\n")
    found = b""
    while _kept_and_dropped(found) < 3000:
        found += pipe.read_until(b"\n")
    assert pipe.sink.drain(_SECONDS)
    assert _kept_and_dropped(found) == 3000
    assert b"dropped " in found


def test_all_is_written_once_drained(pipe: Pipe) -> None:
    pipe.sink.write("naïve \udcff\n")
    assert pipe.sink.drain(_SECONDS)
    assert os.read(pipe.reads, 100) == b"na\xc3\xafve \\udcff\n"


def test_nobody_waits_for_a_pipe_that_is_not_read(pipe: Pipe) -> None:
    line = b"x" * 999 + b"\n"
    for _ in range(3000):  # this returns
        pipe.sink.put(line)
    assert not pipe.sink.drain(0.01)


def test_what_was_dropped_is_told_where_it_is_missing(pipe: Pipe) -> None:
    line = b"x" * 999 + b"\n"
    for _ in range(3000):
        pipe.sink.put(line)
    found = b""
    while _kept_and_dropped(found) < 3000:
        found += pipe.read_until(b"\n")
    assert pipe.sink.drain(_SECONDS)
    pipe.sink.put(b"after\n")
    assert pipe.read_until(b"after\n") == b"after\n"
    assert _kept_and_dropped(found) == 3000
    assert b"dropped " in found


def _kept_and_dropped(found: bytes) -> int:
    """How many lines are there, or told to be missing."""
    *lines, _ = found.split(b"\n")
    words = [line.split() for line in lines]
    return sum(int(line[1]) if line[0] == b"dropped" else 1 for line in words)


def test_lines_of_many_threads_stay_whole_and_in_each_ones_order(pipe: Pipe) -> None:
    def log(name: int) -> None:
        for number in range(200):
            pipe.sink.put(b"%d %d %s\n" % (name, number, b"y" * 200))

    threads = [threading.Thread(target=log, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    found = b""
    while found.count(b"\n") < 800:
        found += pipe.read_until(b"\n")
    for thread in threads:
        thread.join()
    fields = [line.split() for line in found.splitlines()]
    for name in range(4):
        assert [int(number) for by, number, _ in fields if int(by) == name] == list(range(200))


def test_whoever_may_wait_writes_at_once() -> None:
    reads, writes = os.pipe()
    Sink[bytes](writes, lambda _: b"", b"".join, apart=False).put(b"now\n")
    assert os.read(reads, 100) == b"now\n"
    os.close(reads)
    Sink[bytes](writes, lambda _: b"", b"".join, apart=False).put(b"nobody reads this\n")  # and nothing is raised
    os.close(writes)


def test_a_descriptor_that_does_not_block_loses_nothing() -> None:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    pipe = Pipe(reads, Sink[bytes](writes, lambda _: b"dropped", b"".join))
    for number in range(2000):
        pipe.sink.put(b"%0200d\n" % number)
    found = pipe.read_until(b"%0200d\n" % 1999)
    assert found == b"".join(b"%0200d\n" % number for number in range(2000))
    assert pipe.sink.drain(_SECONDS)
    os.close(reads)
    os.close(writes)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=12).map(lambda line: line + b"\n")), st.integers(1, 20))
def test_pieces_hold_whole_lines_and_no_more_than_they_may(lines: list[bytes], most: int) -> None:
    pieces = list(_pieces(b"".join(lines), most))
    assert b"".join(pieces) == b"".join(lines)
    for piece in pieces:
        assert piece.endswith(b"\n")
        assert len(piece) <= most or piece.count(b"\n") == 1
