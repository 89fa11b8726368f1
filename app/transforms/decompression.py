"""gzip (RFC 1952) and Zstandard (RFC 8878), undone as they come, within bounds of memory and expansion. Pure."""

from __future__ import annotations

import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import NoReturn, Protocol

from app.errors import ExpansionTooLarge
from app.transforms.step import PIECE_BYTES, Malformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FREE_EXPANSION_BYTES = 10 * 1024 * 1024
"""What any input may expand to, however small it is."""

LARGEST_WINDOW_LOG = 23
"""Of a Zstandard frame, 8 MiB: what each decoder should support (RFC 8878 3.1.1.1.2), and the most that a sender may
use for a content coding (RFC 9659)."""

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGICS = [bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16)]
_LONGEST_HEAD = 18  # of a Zstandard frame

# The libraries copy what stands behind a member in its last part; many tiny members must not have it copied each time.
_FIRST_PART = 4 * 1024


class _Unit(Protocol):
    """One of the things that follow each other in a stream: a member, a frame, padding.

    unused: None while it goes on; then, how many of the last bytes that came are not its own.
    """

    unused: int | None

    @property
    def may_end(self) -> bool:
        """Whether the stream may end here."""
        ...

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` gives. *Errors*: zlib.error, ZstdError."""
        ...


class Decompressor(ABC):
    """Undoes a coding whose streams are one member (or frame) after the other, at least one.

    Bound: a call of the library gives at most `PIECE_BYTES`, so that no expansion is ever there as a whole.

    *Errors*: Malformed. ``offset`` is exact for what is no member, and the stream's length where it ends too early;
    of a member that is damaged, it is where the member begins, for nobody knows where the damage is.
    ExpansionTooLarge as soon as the bytes that came out are more than `FREE_EXPANSION_BYTES` and ``max_expansion``
    times those that went in; these are counted up to the end of the part (at most `PIECE_BYTES`) that is worked on.
    """

    done = False

    def __init__(self, unit_name: str, max_expansion: float) -> None:
        self._unit_name = unit_name
        self._max_expansion = max_expansion
        self._taken = 0
        self._given = 0
        self._part = _FIRST_PART
        self._unit: _Unit | None = None
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
    def _unit_of(self, head: bytes) -> _Unit:
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

    def _decode(self, unit: _Unit, part: bytes) -> Generator[bytes, None, int]:
        """What ``part`` gives; then, how much of it is not the unit's, which has ended in that case."""
        data, self._head = self._head + part, b""
        try:
            for piece in unit.pieces(data):
                self._admit(len(piece))
                yield piece
        except (zlib.error, zstd.ZstdError) as error:
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


# -- gzip --------------------------------------------------------------------------------------------------------------


class Gunzip(Decompressor):
    """gzip's members, as gzip(1) reads them: zeros may follow the last one.

    Bound: 32 KiB of window, and a piece in and a piece out.
    """

    def __init__(self, max_expansion: float) -> None:
        super().__init__("gzip member", max_expansion)

    def _head_length(self, head: bytes) -> int:
        if self._begin and head[0] == 0:
            return 1
        if not head.startswith(_GZIP_MAGIC[: len(head)]):
            self._refuse_begin()
        return len(_GZIP_MAGIC)

    def _unit_of(self, head: bytes) -> _Unit:
        if head[0] == 0:
            self._head = b""
            return _Padding(self._begin + len(head))
        return _GzipMember()


class _GzipMember:
    may_end = False

    def __init__(self) -> None:
        self.unused: int | None = None
        self._library = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data:  # the member's trailer is always behind what is to come out yet: nothing stays inside
            piece = self._library.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            if self._library.eof:
                self.unused = len(self._library.unused_data)
                return
            data = self._library.unconsumed_tail


class _Padding:
    """Zeros up to the end. *Errors*: Malformed."""

    may_end = True
    unused: int | None = None

    def __init__(self, begin: int) -> None:
        self._at = begin

    def pieces(self, data: bytes) -> Iterator[bytes]:
        other = data.lstrip(b"\0")
        self._at += len(data) - len(other)
        if other:
            detail = f"bytes behind the zeros that follow the last gzip member, at byte {self._at}"
            raise Malformed(detail, members={"offset": self._at})
        return iter(())


# -- Zstandard ---------------------------------------------------------------------------------------------------------


class Unzstd(Decompressor):
    """Zstandard's frames, without dictionaries; skippable ones are skipped.

    Bound: a window of 8 MiB (`LARGEST_WINDOW_LOG`), 0.5 MiB beside it, and a piece in and a piece out. A frame that
    asks for a larger window is Malformed.
    """

    def __init__(self, max_expansion: float) -> None:
        super().__init__("zstd frame", max_expansion)

    def _head_length(self, head: bytes) -> int:
        if any(head.startswith(magic[: len(head)]) for magic in _SKIPPABLE_MAGICS):
            return 8
        if not head.startswith(_ZSTD_MAGIC[: len(head)]):
            self._refuse_begin()
        return 5 + sum(_field_sizes(head[4])) if len(head) > 4 else 5

    def _unit_of(self, head: bytes) -> _Unit:
        if not head.startswith(_ZSTD_MAGIC):
            self._head = b""
            return _SkippableFrame(int.from_bytes(head[4:8], "little"))
        window, most = _window_size(head), 1 << LARGEST_WINDOW_LOG
        if window > most:
            detail = f"the zstd frame that begins at byte {self._begin} needs a window of {window} bytes, over {most}"
            raise Malformed(detail, members={"offset": self._begin})
        return _ZstdFrame()


def _field_sizes(descriptor: int) -> tuple[int, int, int]:
    """Of the fields behind a frame header's descriptor: window, dictionary id, content size (RFC 8878 3.1.1.1.1)."""
    single_segment = descriptor >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    return 1 - single_segment, (0, 1, 2, 4)[descriptor & 3], content_size


def _window_size(head: bytes) -> int:
    """The window that a frame with this head needs (RFC 8878 3.1.1.1.2); 256 bytes less where the size has two."""
    window, _, content_size = _field_sizes(head[4])
    if window:
        base = 1 << (10 + (head[5] >> 3))
        return base + (base >> 3) * (head[5] & 7)
    return int.from_bytes(head[len(head) - content_size :], "little")


class _ZstdFrame:
    may_end = False

    def __init__(self) -> None:
        self.unused: int | None = None
        self._library = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW_LOG},
        )

    def pieces(self, data: bytes) -> Iterator[bytes]:
        more = True
        while more:
            piece = self._library.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            data = b""
            more = not (self._library.eof or self._library.needs_input)
        if self._library.eof:
            self.unused = len(self._library.unused_data)


class _SkippableFrame:
    def __init__(self, size: int) -> None:
        self._left = size
        self.unused: int | None = None

    @property
    def may_end(self) -> bool:
        return not self._left

    def pieces(self, data: bytes) -> Iterator[bytes]:
        skipped = min(self._left, len(data))
        self._left -= skipped
        if not self._left:
            self.unused = len(data) - skipped
        return iter(())
