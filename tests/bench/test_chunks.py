"""Bodies in chunks, however they are cut on their way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.chunks import ChunkedBody
from tests.bench.client import LoadError


def _take(body: ChunkedBody, received: bytes) -> bytes:
    return b"".join(map(bytes, body.take(memoryview(received))))


_contents = st.lists(st.binary(min_size=1, max_size=400), max_size=5)
_trailers = st.lists(st.sampled_from([b"a: b", b"sluice-status: ok"]), max_size=2)
_extensions = st.sampled_from([b"", b";name=value"])


@given(_contents, _trailers, _extensions, st.data())
@settings(max_examples=100, deadline=None)
def test_content_comes_out_and_the_end_is_seen_only_at_the_end(
    contents: list[bytes], trailers: list[bytes], extension: bytes, data: st.DataObject
) -> None:
    wire = b"".join(b"%x%s\r\n%s\r\n" % (len(one), extension, one) for one in contents)
    wire += b"0\r\n" + b"".join(one + b"\r\n" for one in trailers) + b"\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    body, found = ChunkedBody(), b""
    for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        assert body.ended == (start == len(wire))
        found += _take(body, wire[start:stop])
    assert body.ended
    assert found == b"".join(contents)


@pytest.mark.parametrize(
    "wire",
    [b"g\r\n", b"\r\n", b"1\n", b"1\r\nab\r\n", b"1\r\na\r\n0\r\n\r\nmore", b"0\r\n" + b"a" * 20_000],
)
def test_what_is_no_such_body_ends_the_load(wire: bytes) -> None:
    with pytest.raises(LoadError):
        _take(ChunkedBody(), wire)
