"""Results of pipelines, looked at as a whole: what is wrong with them, in words; nothing, mostly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.files import File

_LINE_BYTES = 64 * 1024


def is_upper(source: File, result: Path) -> list[str]:
    """Whether it is what Python's own ``str.upper`` makes of each block."""
    return _is(source, source.block.decode().upper().encode(), result)


def is_copy(source: File, result: Path) -> list[str]:
    return _is(source, source.block, result)


def _is(source: File, block: bytes, result: Path) -> list[str]:
    wanted = hashlib.sha256(source.header)
    for _ in range(source.blocks):
        wanted.update(block)
    with result.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256")
    if found.digest() == wanted.digest():
        return []
    return [f"{result.stat().st_size} bytes that are not the right {len(source.header) + len(block) * source.blocks}"]


def is_ndjson(source: File, result: Path) -> list[str]:
    """Whether it has as many lines as the CSV has records, and the right ones at both ends."""
    names = source.header.decode().rstrip("\n").split(",")
    records = source.block.decode().splitlines()
    lines, first, last = ends(result)
    problems = [] if lines == len(records) * source.blocks else [f"{lines} lines for {len(records) * source.blocks}"]
    for line, record in ((first, records[0]), (last, records[-1])):
        if _texts(line) != dict(zip(names, record.split(","), strict=True)):
            problems.append(f"{line[:200]!r} for {record!r}")
    return problems


def ends(result: Path) -> tuple[int, bytes, bytes]:
    """The number of lines, the first and the last; lines are at most `_LINE_BYTES` long."""
    lines = 0
    with result.open("rb") as opened:
        first = opened.readline(_LINE_BYTES)
        opened.seek(0)
        for part in _parts(opened):
            lines += part.count(b"\n")
        opened.seek(max(0, result.stat().st_size - _LINE_BYTES))
        last = (opened.read().splitlines() or [b""])[-1]
    return lines, first, last


def _parts(opened: Any) -> Iterator[bytes]:
    while part := opened.read(1 << 20):
        yield part


def _texts(line: bytes) -> Any:
    """A JSON object, its numbers as they are written; None where it is none."""
    try:
        return json.loads(line, parse_int=str, parse_float=str)
    except ValueError:
        return None
