"""Compression, read back by the stock libraries; the steps and the content codings."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.transforms import unzstd
from app.transforms.compression import compression_steps, decoder
from app.transforms.step import PIECE_BYTES, BadArguments, Kind, Step
from tests.transforms.streams import cuts, every, result

zstd = unzstd.zstd
STEPS: dict[str, Step] = {step.name: step for step in compression_steps(200)}
UNDO = {"gzip": gzip.decompress, "zstd": zstd.decompress}
LEVELS = [("gzip", None), ("gzip", "1"), ("gzip", "9"), ("zstd", None), ("zstd", "1"), ("zstd", "9")]

content = st.binary(max_size=300) | st.sampled_from([b"", b"report " * 1000, random.Random(1).randbytes(5000)])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.sampled_from(LEVELS), content, st.data())
def test_whatever_goes_in_can_be_read_back(level: tuple[str, str | None], whole: bytes, data: st.DataObject) -> None:
    name, arguments = level
    assert UNDO[name](result(STEPS[name].make(arguments), data.draw(cuts(whole)))) == whole


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [1000, PIECE_BYTES - 1, PIECE_BYTES, 4 * PIECE_BYTES])
def test_what_cannot_be_compressed_comes_out_in_pieces(name: str, size: int) -> None:
    whole = random.Random(2).randbytes(10 * PIECE_BYTES)
    compressed = result(STEPS[name].make(None), every(whole, size))
    assert len(compressed) < len(whole) + 1000
    assert UNDO[name](compressed) == whole


@pytest.mark.parametrize(("name", "arguments"), LEVELS)
def test_the_same_input_gives_the_same_bytes(name: str, arguments: str | None) -> None:
    whole = b"".join(b"line %d\n" % (number % 700) for number in range(20_000))
    once, again = (result(STEPS[name].make(arguments), every(whole, 10_000)) for _ in range(2))
    assert once == again


def test_gzip_tells_no_time_and_no_name() -> None:
    assert result(STEPS["gzip"].make(None), [b"a"])[:8] == b"\x1f\x8b\x08\0\0\0\0\0"


@pytest.mark.parametrize("level", range(1, 10))
def test_any_level_of_zstd_stays_within_the_window_that_is_read(level: int) -> None:
    frame = result(STEPS["zstd"].make(str(level)), [b"a" * 1000])
    assert result(STEPS["unzstd"].make(None), [frame]) == b"a" * 1000


def test_zstd_checks_what_it_reads() -> None:
    frame = bytearray(result(STEPS["zstd"].make(None), [b"a" * 1000]))
    frame[-1] ^= 1
    with pytest.raises(zstd.ZstdError, match="checksum"):
        zstd.decompress(bytes(frame))


@pytest.mark.parametrize(("name", "most"), [("gzip", 9), ("zstd", 9)])
def test_levels(name: str, most: int) -> None:
    for level in range(1, most + 1):
        STEPS[name].make(str(level))
    for arguments in ("", "0", str(most + 1), "-1", "+1", " 1", "1 ", "1.0", "a", "٣", "1_0", "100"):
        with pytest.raises(BadArguments, match=f"from 1 to {most}"):
            STEPS[name].make(arguments)


@pytest.mark.parametrize("name", ["gunzip", "unzstd"])
def test_undoing_takes_no_arguments(name: str) -> None:
    with pytest.raises(BadArguments):
        STEPS[name].make("1")


def test_what_goes_in_and_what_comes_out() -> None:
    assert {name: step.gives for name, step in STEPS.items()} == {
        "gzip": Kind.GZIP,
        "gunzip": Kind.BYTES,
        "zstd": Kind.ZSTD,
        "unzstd": Kind.BYTES,
    }
    assert STEPS["gunzip"].takes == {Kind.GZIP, Kind.BYTES}
    assert STEPS["unzstd"].takes == {Kind.ZSTD, Kind.BYTES}
    assert STEPS["gzip"].takes == STEPS["zstd"].takes == set(Kind)


@pytest.mark.parametrize(
    ("coding", "encoded"),
    [
        ("gzip", gzip.compress(b"a", mtime=0)),
        ("x-gzip", gzip.compress(b"a", mtime=0)),
        ("GZip", gzip.compress(b"a", mtime=0)),
        ("zstd", zstd.compress(b"a")),
    ],
)
def test_a_content_coding_is_undone(coding: str, encoded: bytes) -> None:
    transformer = decoder(coding, 200)
    assert transformer is not None
    assert result(transformer, [encoded]) == b"a"


@pytest.mark.parametrize("coding", ["", "br", "identity", "deflate", "gzip, zstd"])
def test_other_content_codings_are_not_known(coding: str) -> None:
    assert decoder(coding, 200) is None
