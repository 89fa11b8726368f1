"""The steps ``upper`` and ``lower``: the case of UTF-8 text, as of the whole text, however it is cut. Pure.

Changing case by Unicode's full mappings (Unicode Standard, 3.13) looks at one character at a time, with one exception:
a capital sigma becomes ς at the end of a word and σ elsewhere (SpecialCasing.txt, Final_Sigma), which depends on the
characters before it and behind it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from functools import partial
from io import StringIO
from typing import Literal

from app.transforms.arguments import without_arguments
from app.transforms.pieces import cut, in_pieces, slices
from app.transforms.step import Kind, Malformed, Step

LOOK_AHEAD_BYTES = 64 * 1024
"""How much of what may be ignored behind a capital sigma is held until it is known whether a letter follows."""

ASCII_BYTES = 1024 * 1024
"""How much of what is all ASCII is worked on, and given, at once: of letters, a quarter of a millisecond."""

_TAIL_BYTES = 64  # in which there mostly is a character that tells

_SIGMA = "Σ"
_FINAL_SIGMA = "ς"


class _Utf8:
    """UTF-8, decoded as it comes. Holds the bytes of a character that is not complete, at most 3."""

    def __init__(self) -> None:
        self._rest = b""
        self._begin = 0  # of the rest, in the stream

    def decode(self, piece: bytes, *, final: bool = False) -> str:
        """The characters that are complete with ``piece``.

        *Errors*: Malformed, at the first byte of what is no character, with ``final`` also of one that is cut.
        """
        data = self._rest + piece
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            offset = self._begin + error.start
            raise Malformed(f"not UTF-8 at byte {offset}: {error.reason}", members={"offset": offset}) from None
        self._rest = data[used:]
        self._begin += used
        return text

    def skip(self, piece: bytes) -> bool:
        """Whether ``piece`` is all ASCII and begins with a character; it is then taken for decoded."""
        if self._rest or not piece.isascii():
            return False
        self._begin += len(piece)
        return True


class ChangeCase:
    """UTF-8 text in upper or in lower case: what comes out is ``whole.decode().upper().encode()``, or ``lower()``.

    A byte order mark is kept: it is a character without case.

    Bound: works on about `PIECE_BYTES` at once, of ASCII on `ASCII_BYTES`, and gives as much. For ``lower``, what is
    held from one call to the next is a capital sigma and up to `LOOK_AHEAD_BYTES` of combining marks, apostrophes and
    the like behind it (Case_Ignorable). Where there are more of them, and the stream happens to be cut among them, the
    sigma is taken for the end of its word.

    *Errors*: Malformed where it is not UTF-8, with the offset that decoding the whole would tell.
    """

    done = False

    def __init__(self, case: Literal["upper", "lower"]) -> None:
        self._utf8 = _Utf8()
        self._case: _Upper | _Lower = _Upper() if case == "upper" else _Lower()

    def feed(self, piece: bytes) -> Iterable[bytes]:
        for part in cut(piece, ASCII_BYTES):
            if self._is_ascii(part):
                yield self._case.change_ascii(part)
            else:
                yield from self._mixed(part)

    def finish(self) -> Iterable[bytes]:
        return self._pieces(b"", final=True)

    def _is_ascii(self, part: bytes) -> bool:
        """Whether the short way may be gone: without that to a text and back."""
        return self._case.takes_ascii and self._utf8.skip(part)

    def _mixed(self, part: bytes) -> Iterator[bytes]:
        for one in slices(part):
            if self._is_ascii(one):
                yield self._case.change_ascii(one)
            else:
                yield from self._pieces(one, final=False)

    def _pieces(self, part: bytes, *, final: bool) -> Iterator[bytes]:
        yield from in_pieces(self._case.change(self._utf8.decode(part, final=final), final).encode())


class _Upper:
    """``str.upper`` of a text that comes in pieces."""

    takes_ascii = True

    def change(self, text: str, _final: bool) -> str:
        return text.upper()

    def change_ascii(self, piece: bytes) -> bytes:
        return piece.upper()


class _Lower:
    """``str.lower`` of a text that comes in pieces."""

    def __init__(self) -> None:
        self._after_cased = False  # whether a sigma would follow a cased letter here, as Final_Sigma has it
        self._held = StringIO()  # a capital sigma, then what is ignored behind it
        self._held_bytes = 0

    @property
    def takes_ascii(self) -> bool:
        """Whether nothing is held, which what comes would decide about."""
        return not self._held_bytes

    def change_ascii(self, piece: bytes) -> bytes:
        tail = _ends_cased(piece[-_TAIL_BYTES:].decode())
        cased = tail if tail is not None else _ends_cased(piece.decode())
        if cased is not None:
            self._after_cased = cased
        return piece.lower()

    def change(self, text: str, final: bool) -> str:
        """What is known of the lower case now; with ``final``, all the rest."""
        if final:
            return self._lower(self._release() + text)
        if self._held_bytes:
            if _ends_cased(text) is None:
                return self._hold(text)
            text = self._release() + text
        sigma = text.rfind(_SIGMA)
        if sigma < 0 or _ends_cased(text[sigma + 1 :]) is not None:
            return self._lower(text)
        # What goes before the sigma sees it, for it is a cased letter.
        return self._lower(text[:sigma], followed_by=_SIGMA) + self._hold(text[sigma:])

    def _hold(self, text: str) -> str:
        """Holds ``text``; gives all that is held if that is too much."""
        self._held.write(text)
        self._held_bytes += len(text.encode())
        too_much = self._held_bytes > LOOK_AHEAD_BYTES + len(_SIGMA.encode())
        return self._lower(self._release()) if too_much else ""

    def _release(self) -> str:
        text = self._held.getvalue()
        self._held = StringIO()
        self._held_bytes = 0
        return text

    def _lower(self, text: str, followed_by: str = "") -> str:
        before = "a" if self._after_cased and _SIGMA in text else ""
        lowered = (before + text + followed_by).lower() if before or followed_by else text.lower()
        cased = _ends_cased(text)
        if cased is not None:
            self._after_cased = cased
        return lowered[len(before) : len(lowered) - len(followed_by)]


def _ends_cased(text: str) -> bool | None:
    """Whether the last character of ``text`` that is not Case_Ignorable is Cased; None if there is no such character.

    Python doesn't tell these properties; but ``str.lower`` knows them, and shows it by what it does to a sigma.
    """
    size = 16
    while True:
        tail = text[-size:] + _SIGMA
        if not ("a" + tail).lower().endswith(_FINAL_SIGMA):
            return False
        if tail.lower().endswith(_FINAL_SIGMA):
            return True
        if size >= len(text):
            return None
        size *= 8


_TEXT = frozenset({Kind.TEXT, Kind.CSV, Kind.NDJSON, Kind.JSON, Kind.BYTES})


def _step(case: Literal["upper", "lower"], memory: str) -> Step:
    return Step(
        name=case,
        arguments="",
        meaning=f"UTF-8 text in {case} case",
        takes=_TEXT,
        gives=Kind.TEXT,
        memory=memory,
        place="loop",
        make=without_arguments(partial(ChangeCase, case)),
    )


STEPS: tuple[Step, ...] = (
    _step("upper", "one piece, and a character that is cut"),
    _step("lower", "one piece, a character that is cut, and at most 64 KiB of marks behind a capital sigma"),
)
