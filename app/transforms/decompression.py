"""Compressed streams, undone as they come, within bounds of memory and expansion. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import NoReturn, Protocol

from app.errors import ExpansionTooLarge
from app.transforms.step import PIECE_BYTES, Malformed

FREE_EXPANSION_BYTES = 10 * 1024 * 1024
"""What any input may expand to, however small it is."""

_LONGEST_HEAD = 18  # a Zstandard frame has it

# The libraries copy what stands behind a member in its last part; many tiny members must not have it copied each time.
_FIRST_PART = 4 * 1024


class Unit(Protocol):
    """One of the things that follow each other in a stream: a member, a frame, padding.

    unused: None while it goes on; then, how many of the last bytes that came are not its own.
    """

    unused: int | None

    @property
    def may_end(self) -> bool:
        """Whether the stream may end here."""
        ...

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` gives. *Errors*: the library's; Malformed."""
        ...


class Decompressor(ABC):
    """Undoes a coding whose streams are one member (or frame) after the other, at least one.

    unit_name: what such a member is called. damage: how the library says that one is damaged.

    Bound: a call of the library gives at most `PIECE_BYTES`, so that no expansion is ever there as a whole.

    *Errors*: Malformed. ``offset`` is exact for what is no member, and the stream's length where it ends too early;
    of a member that is damaged, it is where the member begins, for nobody knows where the damage is.
    ExpansionTooLarge as soon as the bytes that came out are more than `FREE_EXPANSION_BYTES` and ``max_expansion``
    times those that went in; these are counted up to the end of the part (at most `PIECE_BYTES`) that is worked on.
    """

    done = False

    def __init__(self, unit_name: str, damage: type[Exception], max_expansion: float) -> None:
        self._unit_name = unit_name
        self._damage = damage
        self._max_expansion = max_expansion
        self._taken = 0
        self._given = 0
        self._part = _FIRST_PART
        self._unit: Unit | None = None
        self._begin = 0  # of the unit
        self._head = b""  # of the unit, until that has taken it

    def feed(self, piece: bytes) -> Iterable[bytes]:
        at = 0
        while at < len(piece):
            part = piece[at : at + self._part]
            self._part = min(2 * self._part, PIECE_BYTES)
            self._taken += len(part)
            unused = self._open(part) if self._unit is None else (yield from self._decode(self._unit, part))
            self._taken -= unused
            at += len(part) - unused

    def finish(self) -> Iterable[bytes]:
        if not self._taken:
            raise Malformed(f"empty, without a {self._unit_name}", members={"offset": 0})
        if self._head or not (self._unit is None or self._unit.may_end):
            detail = f"cut: ends at byte {self._taken} inside the {self._unit_name} that begins at byte {self._begin}"
            raise Malformed(detail, members={"offset": self._taken})
        return ()

    @abstractmethod
    def _head_length(self, head: bytes) -> int:
        """How long the head of a unit is: more than ``head`` while that is not known. *Errors*: Malformed."""

    @abstractmethod
    def _unit_of(self, head: bytes) -> Unit:
        """The unit that has this head. *Errors*: Malformed."""

    def _open(self, part: bytes) -> int:
        """Opens a unit once its head is complete. Gives how much of ``part`` is not the head's."""
        if not self._head:
            self._begin = self._taken - len(part)
        head = self._head + part[:_LONGEST_HEAD]
        length = self._head_length(head)
        if length > len(head):
            self._head = head
            return 0
        of_part = length - len(self._head)
        self._head = head[:length]
        self._unit = self._unit_of(self._head)
        return len(part) - of_part

    def _decode(self, unit: Unit, part: bytes) -> Generator[bytes, None, int]:
        """What ``part`` gives; then, how much of it is not the unit's, which has ended in that case."""
        data, self._head = self._head + part, b""
        try:
            for piece in unit.pieces(data):
                self._admit(len(piece))
                yield piece
        except self._damage as error:
            reason = str(error).rpartition(": ")[2]
            detail = f"the {self._unit_name} that begins at byte {self._begin} cannot be decoded: {reason}"
            raise Malformed(detail, members={"offset": self._begin}) from None
        if unit.unused is None:
            return 0
        self._unit = None
        self._part = _FIRST_PART
        return unit.unused

    def _admit(self, size: int) -> None:
        self._given += size
        most = FREE_EXPANSION_BYTES + self._max_expansion * self._taken
        if self._given > most:
            raise ExpansionTooLarge(
                f"{self._taken} bytes expand to more than {most:.0f}:"
                f" {self._max_expansion:g} times as many, and {FREE_EXPANSION_BYTES} more"
            )

    def _refuse_begin(self) -> NoReturn:
        what = f"bytes behind the last {self._unit_name}" if self._begin else f"not a {self._unit_name}"
        raise Malformed(f"{what}, at byte {self._begin}", members={"offset": self._begin})
