"""Case: whatever the cuts, what Python does to the whole text is the oracle."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.transforms.step import PIECE_BYTES, BadArguments, Malformed, Step, Transformer
from app.transforms.text import ASCII_BYTES, LOOK_AHEAD_BYTES, STEPS, ChangeCase
from tests.transforms.streams import cuts, every, result, run

type Case = Literal["upper", "lower"]

deterministic = settings(derandomize=True, deadline=None, max_examples=500)
cases = st.sampled_from(["upper", "lower"])

# Rich in what is decided by its neighbours, in what grows or shrinks, and in the borders of UTF-8's lengths.
TELLING = [
    *"aAzß \n1",
    *"ΣσςΑΟΐİıſŉǅﬃẞ",
    *"'.:^`’\u00ad\u0301\u0307\u0345\u02b0\u200d\ufeff",
    *"\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U00010400\U0010ffff😀中",
    "ΑΣ",
    "Σ\u0301",
    "'" * 200,
]
texts = st.lists(st.one_of(st.sampled_from(TELLING), st.characters(codec="utf-8")), max_size=30).map("".join)
small = st.lists(st.sampled_from(["a", "Σ", "'", " "]), max_size=9).map("".join)


def expected(case: Case, whole: bytes) -> bytes:
    text = whole.decode()
    return (text.upper() if case == "upper" else text.lower()).encode()


def offset_of(transformer: Transformer, pieces: list[bytes]) -> int:
    with pytest.raises(Malformed) as refused:
        result(transformer, pieces)
    offset = refused.value.members["offset"]
    assert isinstance(offset, int)
    assert f"byte {offset}:" in refused.value.detail
    return offset


@deterministic
@given(cases, texts, st.data())
def test_the_cuts_do_not_matter(case: Case, text: str, data: st.DataObject) -> None:
    whole = text.encode()
    assert result(ChangeCase(case), data.draw(cuts(whole))) == expected(case, whole)


@deterministic
@given(cases, texts)
@example("lower", "ΑΣb")
@example("lower", "ΑΣ")
@example("lower", "ΑΣΣ'Σ")
@example("lower", "\ufeffΑ'Σ'")
def test_byte_by_byte(case: Case, text: str) -> None:
    whole = text.encode()
    assert result(ChangeCase(case), every(whole)) == expected(case, whole)


# Runs of ASCII go a way of their own; what they leave behind counts for the sigma that follows.
runs = st.builds(str.__mul__, st.sampled_from(["a", "Z", " ", "'", ".:^`", "aB'", "1", "{@["]), st.integers(1, 100))


@deterministic
@given(cases, st.lists(runs | st.sampled_from(["Σ", "ß", "\u0301"]), max_size=8).map("".join), st.data())
def test_runs_of_ascii_between_others(case: Case, text: str, data: st.DataObject) -> None:
    whole = text.encode()
    assert result(ChangeCase(case), data.draw(cuts(whole))) == expected(case, whole)


@deterministic
@given(small, st.data())
def test_a_sigma_is_final_by_what_is_around_it_in_the_whole(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    assert result(ChangeCase("lower"), data.draw(cuts(whole))) == expected("lower", whole)


@pytest.mark.parametrize("case", ["upper", "lower"])
@pytest.mark.parametrize("text", ["Straße ΐ ", "Ab'", "ΑΣ", "'"])
def test_much_at_once_comes_out_in_pieces(case: Case, text: str) -> None:
    whole = (text * (2 * ASCII_BYTES // len(text) + 1)).encode()
    transformer = ChangeCase(case)
    pieces = [*transformer.feed(whole), *transformer.finish()]
    assert b"".join(pieces) == expected(case, whole)
    assert max(map(len, pieces)) <= (ASCII_BYTES if text.isascii() else 2 * PIECE_BYTES)


@pytest.mark.parametrize("case", ["upper", "lower"])
def test_every_ascii_character_in_a_piece_of_ascii(case: Case) -> None:
    whole = bytes(range(128))
    assert result(ChangeCase(case), [whole]) == expected(case, whole)


@pytest.mark.parametrize("case", ["upper", "lower"])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xc3"])
def test_what_is_wrong_behind_pieces_of_ascii_is_found_where_it_is(case: Case, wrong: bytes) -> None:
    before = b"ab" * PIECE_BYTES
    assert offset_of(ChangeCase(case), [*every(before, 1000), b"c" + wrong + b"d"]) == len(before) + 1


@pytest.mark.parametrize("mark", ["'", "\u0301"])
@pytest.mark.parametrize("size", [1000, 2 * LOOK_AHEAD_BYTES])
@pytest.mark.parametrize("follower", ["b", "", " "])
def test_as_many_marks_as_are_looked_across(mark: str, size: int, follower: str) -> None:
    begin = f"ΑΣ{mark * (LOOK_AHEAD_BYTES // len(mark.encode()))}"
    pieces = [*every(begin.encode(), size), follower.encode()]
    assert result(ChangeCase("lower"), pieces) == expected("lower", b"".join(pieces))


def test_many_marks_before_a_sigma() -> None:
    assert result(ChangeCase("lower"), [("a" + "'" * 200).encode(), "Σ".encode()]).decode() == "a" + "'" * 200 + "ς"


@pytest.mark.parametrize("size", [1, 1000])
def test_behind_more_marks_than_that_the_word_has_ended(size: int) -> None:
    marks = "'" * (LOOK_AHEAD_BYTES + 1)
    transformer = ChangeCase("lower")
    given_up = b"".join(piece for part in every(f"ΑΣ{marks}".encode(), size) for piece in transformer.feed(part))
    assert given_up.decode() == f"ας{marks}"
    # The letter before it is still known: another sigma continues the word.
    assert result(transformer, ["Σ".encode()]).decode() == "ς"


def test_nothing_gives_nothing() -> None:
    assert list(run(ChangeCase("lower"), [b"", b""])) == []


WRONG = [b"\xff", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3"]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("case", ["upper", "lower"])
def test_what_is_wrong_is_found_where_the_whole_has_it(case: Case, wrong: bytes) -> None:
    text = "aß'ΑΣ😀中".encode()
    for position in range(len(text) + 1):
        whole = text[:position] + wrong + text[position:]
        with pytest.raises(UnicodeDecodeError) as found:
            whole.decode()
        for size in (1, 2, 3, len(whole)):
            assert offset_of(ChangeCase(case), every(whole, size)) == found.value.start


def judged_whole(whole: bytes) -> bytes | int:
    try:
        return expected("lower", whole)
    except UnicodeDecodeError as error:
        return error.start


def judged(pieces: list[bytes]) -> bytes | object:
    try:
        return result(ChangeCase("lower"), pieces)
    except Malformed as error:
        return error.members["offset"]


@deterministic
@given(st.binary(max_size=12) | st.lists(st.sampled_from([*WRONG, "Σ😀é'".encode(), b"a"])).map(b"".join), st.data())
def test_any_bytes_are_judged_as_by_decoding_the_whole(whole: bytes, data: st.DataObject) -> None:
    assert judged(data.draw(cuts(whole))) == judged_whole(whole)


@pytest.mark.parametrize("step", STEPS, ids=[step.name for step in STEPS])
def test_the_steps_make_what_they_are_named(step: Step) -> None:
    assert result(step.make(None), [b"aB"]) == getattr(b"aB", step.name)()
    for arguments in ("", "x"):
        with pytest.raises(BadArguments):
            step.make(arguments)
