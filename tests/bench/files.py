"""Large files that pipelines are given: one block of lines, as many times as it takes, so that results are known."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.reports.demo import large_report
from tests.bench.ground import Ground

FULL_BYTES, QUICK_BYTES = 1_000_000_000, 50_000_000
CHECKED_BYTES = 8_000_000  # of a file whose result is looked at as a whole

_BLOCK_BYTES = 1_000_000
_LARGEST_RESULT = 3  # times what is taken
_ASCII = "abcdefghijklmnopqrstuvwxyz"
_MIXED = ("äöüéèñçøåß", "αβγδεζηθλμπςσ", "абвгдежзиклмн", "報告書測定站點日本語", _ASCII, _ASCII, _ASCII)


@dataclass(frozen=True)
class File:
    """header, then block ``blocks`` times; both are whole lines."""

    path: Path
    header: bytes
    block: bytes
    blocks: int

    @property
    def size(self) -> int:
        return len(self.header) + len(self.block) * self.blocks


def file(ground: Ground, kind: str, size: int) -> File:
    """The file of that kind and of about that size, which is made where it is not there. *Errors*: RuntimeError."""
    header, block = KINDS[kind]()
    made = File(ground.folder / f"{kind}-{size}", header, block, max(1, round(size / len(block))))
    if not made.path.exists():
        ground.need_room((1 + _LARGEST_RESULT) * made.size)
        with made.path.open("wb") as target:
            target.write(made.header)
            for _ in range(made.blocks):
                target.write(made.block)
            target.flush()
            os.fsync(target.fileno())  # or it would still be written while something is measured
    return made


def in_words(size: int) -> str:
    return f"{size / 1e9:g} GB" if size >= 10**9 else f"{size / 1e6:g} MB"


def full_size(*, quick: bool) -> int:
    return QUICK_BYTES if quick else FULL_BYTES


def _ascii() -> tuple[bytes, bytes]:
    return b"", _lines((_ASCII,))


def _mixed() -> tuple[bytes, bytes]:
    return b"", _lines(_MIXED)


def _lines(alphabets: tuple[str, ...]) -> bytes:
    """About `_BLOCK_BYTES` of words and numbers in lines."""
    chance = random.Random(20260101)
    lines: list[bytes] = []
    size = 0
    while size < _BLOCK_BYTES:
        words = ["".join(chance.choices(chance.choice(alphabets), k=chance.randint(2, 11))) for _ in range(9)]
        lines.append(f"{chance.randrange(10**6)} {' '.join(words)}\n".encode())
        size += len(lines[-1])
    return b"".join(lines)


def _csv() -> tuple[bytes, bytes]:
    header, newline, rows = b"".join(large_report(_BLOCK_BYTES).make()).partition(b"\n")
    return header + newline, rows


KINDS: dict[str, Callable[[], tuple[bytes, bytes]]] = {"ascii": _ascii, "mixed": _mixed, "csv": _csv}
