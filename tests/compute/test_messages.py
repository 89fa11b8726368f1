"""What server and worker say to each other, however it is cut on the way."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.compute.engine import Call, OpenReport
from app.compute.messages import (
    MOST_PACKET_BYTES,
    Failed,
    Frames,
    GivenReport,
    Message,
    Ready,
    Reported,
    Returned,
    Start,
    Tired,
    decode_start,
    encode_start,
    frame,
)
from app.compute.payload import InFile, Inline
from app.compute.run import Run

NUMBERS = st.integers(0, 2**63 - 1)
SECONDS = st.floats(allow_nan=False)
MESSAGES = st.one_of(
    st.builds(Ready, NUMBERS),
    st.builds(Tired),
    st.builds(Reported, NUMBERS, SECONDS, st.none() | SECONDS, st.text()),
    st.builds(Returned, NUMBERS, SECONDS, st.binary(max_size=300)),
    st.builds(Failed, NUMBERS, SECONDS, st.text(), st.text(), st.binary(), st.text()),
)


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=5), st.data())
def test_messages_come_out_as_they_went_in(messages: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(frame, messages))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    frames = Frames()
    found: list[Message] = []
    for start, stop in pairwise(sorted({0, len(stream), *cuts})):
        found += frames.feed(stream[start:stop])
        whole = sum(stop >= len(b"".join(map(frame, messages[: count + 1]))) for count in range(len(messages)))
        assert len(found) == whole  # none is kept back
    assert found == messages


def test_byte_by_byte_too() -> None:
    messages: list[Message] = [Ready(7), Returned(1, 0.5, b"x" * 70_000), Reported(2, math.inf, None, "é")]
    frames = Frames()
    stream = b"".join(map(frame, messages))
    found = [message for at in range(len(stream)) for message in frames.feed(stream[at : at + 1])]
    assert found == messages


@settings(deadline=None)
@given(
    NUMBERS,
    st.none() | st.text(),
    st.binary(),
    st.none() | NUMBERS,
    st.dictionaries(st.text(), st.builds(GivenReport, st.text(), st.text(), NUMBERS, NUMBERS)),
)
def test_a_call_is_read_as_it_was_written(
    number: int, task: str | None, data: bytes, descriptor: int | None, reports: dict[str, GivenReport]
) -> None:
    start = Start(number, task, data, descriptor, 7, reports)
    assert decode_start(encode_start(start)) == start


# -- packets of a call -------------------------------------------------------------------------------------------------


def _run(call: Call) -> Run:
    return Run(7, call, lambda *_: None)


async def test_a_short_call_is_in_its_packet() -> None:
    start = decode_start(_run(Call("echo", Inline(b'{"a":1}'))).packet())
    assert start == Start(7, "echo", b'{"a":1}')


async def test_the_file_of_a_longer_call_is_made_once_and_closed_with_it() -> None:
    run = _run(Call("echo", Inline(b"x" * 5000)))
    packet = run.packet()
    assert run.packet() == packet
    start = decode_start(packet)
    assert (start.data, start.size) == (b"", 5000)
    assert start.descriptor is not None
    with open(start.descriptor, "rb", closefd=False) as file:  # noqa: ASYNC230
        file.seek(0)
        assert file.read() == b"x" * 5000
    run.end(b"1")
    with pytest.raises(OSError, match="Bad file descriptor"):
        open(start.descriptor, "rb", closefd=False)  # noqa: ASYNC230, SIM115


async def test_a_call_with_more_reports_than_a_packet_holds_is_refused() -> None:
    reports = {f"report{at}": OpenReport("u" * 128, "text/csv", 1, 3) for at in range(40)}
    with pytest.raises(ValueError, match="more stored reports"):
        _run(Call("echo", InFile(3, 10), reports)).packet()
    few = dict(list(reports.items())[:10])
    assert len(_run(Call("echo", Inline(b"x" * 1024), few)).packet()) <= MOST_PACKET_BYTES
