"""Digests of what passes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.transforms.digests import STEPS, Sha256
from app.transforms.step import PIECE_BYTES, BadArguments
from tests.transforms.streams import cuts, result, run


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.binary(max_size=100), st.data())
def test_what_comes_passes_and_is_digested(whole: bytes, data: st.DataObject) -> None:
    transformer = Sha256()
    assert result(transformer, data.draw(cuts(whole))) == whole
    assert transformer.digest == hashlib.sha256(whole).digest()


def test_there_is_no_digest_before_the_end() -> None:
    transformer = Sha256()
    assert list(transformer.feed(b"begun")) == [b"begun"]
    assert transformer.digest is None


def test_much_at_once_comes_out_in_pieces() -> None:
    whole = bytes(range(256)) * (3 * PIECE_BYTES // 256)
    transformer = Sha256()
    assert [len(piece) for piece in run(transformer, [whole])] == [PIECE_BYTES] * 3
    assert transformer.digest == hashlib.sha256(whole).digest()


def test_the_step_makes_one_and_takes_no_arguments() -> None:
    (step,) = STEPS
    assert isinstance(step.make(None), Sha256)
    with pytest.raises(BadArguments):
        step.make("hex")
