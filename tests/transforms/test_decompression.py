"""Decompression: the stock tools' streams however they are cut, joined, truncated and damaged; bombs."""

from __future__ import annotations

import gzip
import random
import re
import shutil
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import ExpansionTooLarge
from app.transforms import unzstd
from app.transforms.compression import decoder
from app.transforms.decompression import FREE_EXPANSION_BYTES, Decompressor
from app.transforms.step import PIECE_BYTES, Malformed
from tests.transforms.streams import cuts, every, result, run

zstd = unzstd.zstd
deterministic = settings(derandomize=True, deadline=None, max_examples=150)

TEXT = b"Sing, O goddess, the anger of Achilles son of Peleus, that brought countless ills upon the Achaeans."
SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00" + b"\x28\xb5\x2f\xfd\x00"
EMPTY_SKIPPABLE = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
MIB = 1024 * 1024


def gzip_member(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def gzip_member_with_all_fields(data: bytes) -> bytes:
    """With an extra field, a name, a comment and a checksum of the header (RFC 1952 2.3)."""
    plain = gzip_member(data)
    head = plain[:3] + b"\x1e" + plain[4:10] + b"\x03\x00abc" + b"name\0" + b"comment\0"
    return head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + plain[10:]


def zstd_frame(data: bytes) -> bytes:
    """With content size and checksum."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


def zstd_frame_of_a_stream(data: bytes) -> bytes:
    """With a window, for the content's size is not known."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
    return compressor.compress(data) + compressor.flush()


MAKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip_member),
    ("gzip", gzip_member_with_all_fields),
    ("zstd", zstd_frame),
    ("zstd", zstd_frame_of_a_stream),
]
IDS = [make.__name__ for _, make in MAKERS]
each_maker = pytest.mark.parametrize(("coding", "make"), MAKERS, ids=IDS)


def undo(coding: str, max_expansion: float = 200) -> Decompressor:
    transformer = decoder(coding, max_expansion)
    assert isinstance(transformer, Decompressor)
    return transformer


def refusal(coding: str, pieces: list[bytes]) -> tuple[object, str]:
    """The offset and the detail of what is Malformed."""
    with pytest.raises(Malformed) as refused:
        result(undo(coding), pieces)
    return refused.value.members["offset"], refused.value.detail


# -- what is whole -----------------------------------------------------------------------------------------------------


@deterministic
@given(
    st.sampled_from(MAKERS),
    st.lists(st.binary(max_size=200) | st.sampled_from([b"", TEXT * 30]), min_size=1, max_size=5),
    st.data(),
)
def test_members_follow_each_other_and_the_cuts_do_not_matter(maker, contents, data: st.DataObject) -> None:
    coding, make = maker
    stream = b"".join(map(make, contents))
    assert result(undo(coding), data.draw(cuts(stream))) == b"".join(contents)
    assert result(undo(coding), every(stream)) == b"".join(contents)


@each_maker
def test_many_empty_members_at_once(coding: str, make: Callable[[bytes], bytes]) -> None:
    stream = make(b"") * 1000 + make(b"end")
    assert result(undo(coding), [stream]) == b"end"


@each_maker
@pytest.mark.parametrize("size", [1000, 128 * 1024, 10 * MIB])
def test_much_comes_out_in_pieces(coding: str, make: Callable[[bytes], bytes], size: int) -> None:
    content = (TEXT * 200 + random.Random(1).randbytes(MIB)) * 3
    assert result(undo(coding), every(make(content), size)) == content


@pytest.mark.parametrize("skipped", [SKIPPABLE, EMPTY_SKIPPABLE, SKIPPABLE + EMPTY_SKIPPABLE])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_skippable_frames_are_skipped_wherever_they_are(skipped: bytes, size: int) -> None:
    stream = skipped + zstd_frame(b"a") + skipped + zstd_frame(b"b") + skipped
    assert result(undo("zstd"), every(stream, size)) == b"ab"
    assert result(undo("zstd"), every(skipped, size)) == b""


@pytest.mark.parametrize("zeros", [1, 2, 512, 100_000])
@pytest.mark.parametrize("size", [1, 1000, MIB])
def test_zeros_may_follow_gzip(zeros: int, size: int) -> None:
    assert result(undo("gzip"), every(gzip_member(b"a") * 2 + bytes(zeros), size)) == b"aa"


@pytest.mark.parametrize(("coding", "tool"), [("gzip", ["gzip", "-9"]), ("zstd", ["zstd", "-19"]), ("zstd", ["zstd"])])
def test_what_the_command_line_tools_write(coding: str, tool: list[str]) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"no {tool[0]} here")
    content = random.Random(2).randbytes(9 * MIB)  # more than a window
    stream = subprocess.run([*tool, "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout
    assert result(undo(coding), every(stream, PIECE_BYTES)) == content


# -- what is not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("pieces", [[], [b""]])
def test_nothing_is_not_compressed(coding: str, pieces: list[bytes]) -> None:
    offset, detail = refusal(coding, pieces)
    assert offset == 0
    assert detail.startswith("empty")


@each_maker
@pytest.mark.parametrize("before", [0, 1, 2])
def test_each_truncation_is_found(coding: str, make: Callable[[bytes], bytes], before: int) -> None:
    whole = make(TEXT)
    for length in range(1, len(whole)):
        stream = make(b"before") * before + whole[:length]
        for size in (1, len(stream)):
            offset, detail = refusal(coding, every(stream, size))
            assert offset == len(stream)
            assert f"begins at byte {len(stream) - length}" in detail


def test_each_truncation_of_a_skippable_frame_is_found() -> None:
    for length in range(1, len(SKIPPABLE)):
        assert refusal("zstd", [zstd_frame(b"") + SKIPPABLE[:length]])[0] == len(zstd_frame(b"")) + length


def judged(coding: str, pieces: list[bytes]) -> bytes | object:
    """What comes out; or the offset of what is wrong."""
    try:
        return result(undo(coding), pieces)
    except Malformed as error:
        return error.members["offset"]


@each_maker
def test_each_flipped_bit_is_found_or_does_not_matter(coding: str, make: Callable[[bytes], bytes]) -> None:
    whole = make(TEXT)
    found = 0
    for position in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        came = judged(coding, [bytes(damaged)])
        assert came == TEXT or came in range(len(whole) + 1)
        found += came != TEXT
    # What may be otherwise is in the head: gzip's time and system, bits that zstd ignores, a larger window.
    assert found >= len(whole) * 8 - 8 * 7


@settings(deterministic, max_examples=400)
@given(st.sampled_from(MAKERS), st.binary(max_size=40), st.data())
def test_whatever_is_wrong_the_cuts_do_not_matter(maker, noise: bytes, data: st.DataObject) -> None:
    coding, make = maker
    good = make(TEXT) + make(b"")
    position = data.draw(st.integers(0, len(good)))
    stream = good[:position] + noise + good[position + data.draw(st.integers(0, 40)) :]
    assert judged(coding, data.draw(cuts(stream))) == judged(coding, every(stream)) == judged(coding, [stream])


@pytest.mark.parametrize("make", [gzip_member, zstd_frame], ids=["gzip", "zstd"])
def test_a_wrong_checksum_is_damage_of_its_member(make: Callable[[bytes], bytes]) -> None:
    coding = "gzip" if make is gzip_member else "zstd"
    good = make(TEXT)
    wrong = bytearray(good)
    wrong[-5 if coding == "gzip" else -1] ^= 1
    offset, detail = refusal(coding, [good, bytes(wrong), good])
    assert offset == len(good)
    assert f"begins at byte {len(good)} cannot be decoded" in detail


@deterministic
@given(st.sampled_from(MAKERS), st.binary(min_size=1, max_size=30), st.data())
@example(MAKERS[0], b"\x1f\x8c", None)
@example(MAKERS[2], b"\x28\xb5\x2f\xfc", None)
@example(MAKERS[2], b"\x50\x2a\x4d\x19", None)
def test_what_begins_no_member_is_told_where_it_is(maker, garbage: bytes, data: st.DataObject | None) -> None:
    coding, make = maker
    if garbage[0] in b"\0\x1f\x28\x50\x51\x52\x53\x54\x55\x56\x57\x58\x59\x5a\x5b\x5c\x5d\x5e\x5f" and data is not None:
        garbage = b"x" + garbage
    stream = make(TEXT) + garbage
    pieces = data.draw(cuts(stream)) if data is not None else every(stream)
    assert refusal(coding, pieces)[0] == len(make(TEXT))
    offset, detail = refusal(coding, [garbage])
    assert offset == 0
    assert detail.startswith("not a ")


@pytest.mark.parametrize("zeros", [1, 700])
@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("garbage", [b"x", gzip_member(b"")])
def test_behind_the_zeros_come_zeros_only(zeros: int, size: int, garbage: bytes) -> None:
    stream = gzip_member(TEXT) + bytes(zeros)
    assert refusal("gzip", every(stream + garbage, size))[0] == len(stream)


@pytest.mark.parametrize("stream", [b"\0", bytes(100)])
def test_zeros_alone_are_not_gzip(stream: bytes) -> None:
    assert refusal("gzip", [stream])[0] == 0


# -- bounds ------------------------------------------------------------------------------------------------------------


def frame_with_window_log(log: int) -> bytes:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
    return compressor.compress(TEXT) + compressor.flush()


def raw_frame(descriptor: int, fields: bytes, block: bytes = b"\x01\x00\x00") -> bytes:
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + fields + block


def test_windows_of_8_mib_are_taken() -> None:
    assert result(undo("zstd"), [frame_with_window_log(23)]) == TEXT


@pytest.mark.parametrize(
    ("frame", "window"),
    [
        (frame_with_window_log(24), 16 * MIB),
        (raw_frame(0x00, b"\x69"), 9 * MIB),  # a mantissa
        (raw_frame(0x01, b"\x69\x07"), 9 * MIB),  # a dictionary's id behind it
        (raw_frame(0xA0, (8 * MIB + 1).to_bytes(4, "little")), 8 * MIB + 1),  # one segment: the content's size
        (raw_frame(0xE0, (1 << 63).to_bytes(8, "little")), 1 << 63),
        (raw_frame(0xA3, b"\x07\0\0\0" + (8 * MIB + 1).to_bytes(4, "little")), 8 * MIB + 1),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_larger_windows_are_refused(frame: bytes, window: int, size: int) -> None:
    offset, detail = refusal("zstd", every(zstd_frame(b"") + frame, size))
    assert offset == len(zstd_frame(b""))
    assert f"a window of {window} bytes" in detail


@pytest.mark.parametrize("size", [255, 256, 65_791, 65_792])
def test_one_segment_of_any_field_size(size: int) -> None:
    content = random.Random(3).randbytes(size)
    assert result(undo("zstd"), every(zstd_frame(content), 1000)) == content


def test_a_dictionary_that_nobody_has_is_refused() -> None:
    assert "cannot be decoded" in refusal("zstd", [raw_frame(0x21, b"\x07\0")])[1]


def bomb(coding: str, size: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=31) if coding == "gzip" else zstd.ZstdCompressor()
    return b"".join([compressor.compress(bytes(MIB)) for _ in range(size // MIB)]) + compressor.flush()


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [100, MIB])
def test_a_bomb_is_refused_before_it_has_gone_off(coding: str, size: int) -> None:
    stream = bomb(coding, 512 * MIB if coding == "zstd" else 128 * MIB)
    came = 0
    with pytest.raises(ExpansionTooLarge) as refused:
        for piece in run(undo(coding), every(stream, size)):
            came += len(piece)
    told = re.match(r"(\d+) bytes expand to more than (\d+):", refused.value.detail)
    assert told is not None
    taken, most = int(told[1]), int(told[2])
    assert most == FREE_EXPANSION_BYTES + 200 * taken
    assert came <= most < came + PIECE_BYTES
    assert taken < 64 * 1024


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_do_not_start_the_count_anew(coding: str) -> None:
    with pytest.raises(ExpansionTooLarge):
        result(undo(coding), [bomb(coding, 5 * MIB) * 3])


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_10_mib_are_free_whatever_the_factor(coding: str) -> None:
    stream = bomb(coding, FREE_EXPANSION_BYTES)
    assert len(result(undo(coding, 1), [stream])) == FREE_EXPANSION_BYTES
    with pytest.raises(ExpansionTooLarge):
        result(undo(coding, 1), [bomb(coding, FREE_EXPANSION_BYTES + MIB)])


def test_what_expands_by_less_than_the_factor_passes_whole() -> None:
    stream = bomb("gzip", 16 * MIB)
    assert len(result(undo("gzip", 1100), every(stream, 1000))) == 16 * MIB


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_what_expands_never_lies_there_whole(coding: str) -> None:
    stream = bomb(coding, 64 * MIB)
    transformer = undo(coding, 1e6)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in run(transformer, [stream]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 64 * MIB
    assert peak < 8 * PIECE_BYTES
