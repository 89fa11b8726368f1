"""Zstandard (RFC 8878), undone as it comes. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from app.transforms.decompression import Decompressor, Unit
from app.transforms.step import PIECE_BYTES, Malformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGEST_WINDOW_LOG = 23
"""Of a Zstandard frame, 8 MiB: what each decoder should support (RFC 8878 3.1.1.1.2), and the most that a sender may
use for a content coding (RFC 9659)."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGICS = [bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16)]


class Unzstd(Decompressor):
    """Zstandard's frames, without dictionaries; skippable ones are skipped.

    Bound: a window of 8 MiB (`LARGEST_WINDOW_LOG`), 0.5 MiB beside it, and a piece in and a piece out. A frame that
    asks for a larger window is Malformed.
    """

    def __init__(self, max_expansion: float) -> None:
        super().__init__("zstd frame", zstd.ZstdError, max_expansion)

    def _head_length(self, head: bytes) -> int:
        if any(head.startswith(magic[: len(head)]) for magic in _SKIPPABLE_MAGICS):
            return 8
        if not head.startswith(_MAGIC[: len(head)]):
            self._refuse_begin()
        return 5 + sum(_field_sizes(head[4])) if len(head) > 4 else 5

    def _unit_of(self, head: bytes) -> Unit:
        if not head.startswith(_MAGIC):
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
