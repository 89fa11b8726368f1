"""The steps ``gzip``, ``gunzip``, ``zstd`` and ``unzstd``, and the content codings that these are. Pure.

zlib and Zstandard give the interpreter's lock away in each call, whatever its size: hence the threads.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from app.transforms.arguments import whole_number, without_arguments
from app.transforms.gunzip import Gunzip
from app.transforms.pieces import cut
from app.transforms.step import Kind, Step, Transformer
from app.transforms.unzstd import Unzstd

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Compress:
    """What a compressor makes of a stream, one that is empty too."""

    done = False

    def __init__(self, compressor: _Compressor) -> None:
        self._compressor = compressor

    def feed(self, piece: bytes) -> Iterable[bytes]:
        for part in cut(piece):
            if compressed := self._compressor.compress(part):
                yield compressed

    def finish(self) -> Iterable[bytes]:
        yield self._compressor.flush()


def gzip(arguments: str | None = None) -> Transformer:
    """One gzip member, without name and time: the same input gives the same bytes. *Errors*: BadArguments."""
    return Compress(
        zlib.compressobj(6 if arguments is None else whole_number(arguments, 1, 9), wbits=16 + zlib.MAX_WBITS)
    )


def zstandard(arguments: str | None = None) -> Transformer:
    """One Zstandard frame with a checksum. Its window is at most 8 MiB, as RFC 9659 asks for.

    *Errors*: BadArguments.
    """
    level = 3 if arguments is None else whole_number(arguments, 1, 9)
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return Compress(zstd.ZstdCompressor(options=options))


def decoder(coding: str, max_expansion: float) -> Transformer | None:
    """What undoes a content coding (RFC 9110 8.4.1, in any case of letters); None for one that is not known."""
    match coding.lower():
        case "gzip" | "x-gzip":
            return Gunzip(max_expansion)
        case "zstd":
            return Unzstd(max_expansion)
        case _:
            return None


_ZSTD_MEMORY = "by level: 5 MiB at 3, 17 MiB at 9"  # measured; higher ones take up to 91 MiB


def compression_steps(max_expansion: float) -> tuple[Step, ...]:
    """The steps. max_expansion: of ``gunzip`` and ``unzstd``, see `Decompressor`."""
    return (
        _compressing("gzip", "[1–9]", "gzip, at level 6 if none is given", Kind.GZIP, "0.3 MiB", gzip),
        _decompressing("gunzip", Kind.GZIP, "0.3 MiB", partial(Gunzip, max_expansion)),
        _compressing("zstd", "[1–9]", "Zstandard, at level 3 if none is given", Kind.ZSTD, _ZSTD_MEMORY, zstandard),
        _decompressing(
            "unzstd", Kind.ZSTD, "9 MiB: larger windows than 8 MiB are refused", partial(Unzstd, max_expansion)
        ),
    )


def _compressing(
    name: str, arguments: str, meaning: str, gives: Kind, memory: str, make: Callable[[str | None], Transformer]
) -> Step:
    return Step(name, arguments, meaning, frozenset(Kind), gives, memory, "thread", make)


def _decompressing(name: str, kind: Kind, memory: str, make: Callable[[], Transformer]) -> Step:
    takes = frozenset({kind, Kind.BYTES})
    return Step(name, "", f"undoes {kind}", takes, Kind.BYTES, memory, "thread", without_arguments(make))
