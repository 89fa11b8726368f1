"""Results of pipelines: which are right, and what is said of those that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.checks import is_copy, is_ndjson, is_upper
from tests.bench.files import CHECKED_BYTES, KINDS, File, file, in_words
from tests.bench.ground import Ground
from tests.bench.stored import list_problems


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_made_once_of_whole_lines(ground: Ground, kind: str) -> None:
    made = file(ground, kind, CHECKED_BYTES)
    content = made.path.read_bytes()
    assert content == made.header + made.block * made.blocks
    assert len(content) == made.size == pytest.approx(CHECKED_BYTES, rel=0.1)
    assert made.block.endswith(b"\n")
    assert content.isascii() == (kind != "mixed")
    written = made.path.stat().st_mtime_ns
    assert file(ground, kind, CHECKED_BYTES) == made
    assert made.path.stat().st_mtime_ns == written


def test_sizes_in_words() -> None:
    assert [in_words(size) for size in (50_000_000, 10**9, 10**10)] == ["50 MB", "1 GB", "10 GB"]


_TEXT = File(Path(), b"", "Aß σ 1\n".encode(), 3)
_CSV = File(Path(), b"number,value\n", b"1,2.50\n2,x\n", 2)


def _ndjson(*records: dict[str, object]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


_FIRST: dict[str, object] = {"number": 1, "value": "2.50"}
_LAST: dict[str, object] = {"number": "2", "value": "x"}


@pytest.mark.parametrize(
    ("check", "source", "right", "wrong"),
    [
        (is_upper, _TEXT, "ASS Σ 1\n".encode() * 3, "ASS Σ 1\n".encode() * 2),
        (is_upper, _TEXT, "ASS Σ 1\n".encode() * 3, "ASS Σ 1\nASS Σ 2\nASS Σ 1\n".encode()),
        (is_copy, _CSV, _CSV.header + _CSV.block * 2, _CSV.block * 2),
        (is_ndjson, _CSV, _ndjson(_FIRST, _LAST, _FIRST, _LAST), _ndjson(_FIRST, _LAST, _LAST)),
        (is_ndjson, _CSV, _ndjson(_FIRST, _LAST, _FIRST, _LAST), _ndjson(_LAST, _LAST, _FIRST, _LAST)),
        (is_ndjson, _CSV, b'{"number":1,"value":2.50}\n' + _ndjson(_LAST) * 3, _ndjson(_FIRST) * 4),
        (is_ndjson, _CSV, _ndjson(_FIRST, _LAST, _FIRST, _LAST), _ndjson(_FIRST, _LAST, _FIRST) + b"no\n"),
    ],
)
def test_one_result_is_right(
    tmp_path: Path, check: Callable[[File, Path], list[str]], source: File, right: bytes, wrong: bytes
) -> None:
    result = tmp_path / "result"
    result.write_bytes(right)
    assert check(source, result) == []
    result.write_bytes(wrong)
    assert len(check(source, result)) == 1
    result.write_bytes(b"")
    assert check(source, result) != []


@pytest.mark.parametrize(
    ("rows", "size", "content", "problems"),
    [
        (2, 34, b'{"user_id":"ada"}\n{"user_id":"b"}\n', 0),
        (3, 34, b'{"user_id":"ada"}\n{"user_id":"b"}\n', 1),
        (2, 33, b'{"user_id":"ada"}\n{"user_id":"b"}\n', 1),
        (2, 34, b'{"user_id":"b"}\n{"user_id":"ada"}\n', 1),
        (1, 3, b"{}\n", 1),
        (0, 0, b"", 1),
    ],
)
def test_a_list_has_its_rows_in_order(tmp_path: Path, rows: int, size: int, content: bytes, problems: int) -> None:
    result = tmp_path / "result"
    result.write_bytes(content)
    assert len(list_problems(result, size, rows)) == problems
