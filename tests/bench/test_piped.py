"""Pipelines, measured: of tools, and of a server that stands in for one."""

from __future__ import annotations

import os
import socket

import pytest

from tests.bench import files
from tests.bench.checks import is_copy
from tests.bench.files import CHECKED_BYTES, file
from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.piped import Piped, by_tool, transform_path
from tests.bench.stand_in import CHUNKED, chunk, echo, serving, swallow
from tests.bench.tools import Tool
from tests.bench.work import Measurement


def _tool(script: str, *, careless: bool = False) -> Tool:
    return Tool(lambda source, target, _: ["sh", "-c", script, "sh", str(source), str(target)], {}, careless)


def test_a_tool_is_measured_and_its_result_looked_at(ground: Ground) -> None:
    source = file(ground, "mixed", CHECKED_BYTES)
    found = by_tool(_tool('cat "$1" >"$2"'), source, (), is_copy, ground)
    assert found.problems == []
    assert found.figures["mb_per_second"] == pytest.approx(source.size / found.figures["seconds"] / 1e6)
    assert by_tool(_tool('head -c 9 "$1" >"$2"'), source, (), is_copy, ground).problems != []
    with pytest.raises(RuntimeError, match="sh ended with 3"):
        by_tool(_tool("exit 3"), source, (), is_copy, ground)


def test_what_a_careless_tool_loses_is_counted(ground: Ground) -> None:
    source = file(ground, "ascii", CHECKED_BYTES)
    lossy = 'cat "$1" >"$2"; printf "\\357\\277\\275\\357\\277\\275" >>"$2"'
    found = by_tool(_tool(lossy, careless=True), source, (), is_copy, ground)
    assert (found.problems, found.figures["lost"]) == ([], 2)
    assert by_tool(_tool(lossy), source, (), is_copy, ground).problems != []
    # Anything else is wrong whoever does it.
    assert by_tool(_tool('head -c 9 "$1" >"$2"', careless=True), source, (), is_copy, ground).problems != []


_COPY = Piped(
    name="copy",
    title="copy",
    kind="ascii",
    steps=("none",),
    check=is_copy,
    peers=(),
    reference="",
    columns=(),
    targets=(),
)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "QUICK_BYTES", 2 * CHECKED_BYTES)


def _measured(ground: Ground, port: int) -> Measurement:
    return _COPY.measure(Server(os.getpid(), port), ground, 1, quick=True)


@pytest.mark.usefixtures("small_files")
def test_a_server_is_checked_and_measured(ground: Ground) -> None:
    with serving(echo) as port:
        found = _measured(ground, port)
    assert found.problems == []
    assert found.figures["sent"] == found.figures["bytes"] == file(ground, "ascii", 2 * CHECKED_BYTES).size
    assert found.figures["rss_mib"] > 0


@pytest.mark.usefixtures("small_files")
def test_a_server_that_gives_wrong_bytes_has_a_problem(ground: Ground) -> None:
    def serve(connection: socket.socket, size: int) -> bool:
        swallow(connection, size)
        connection.sendall(CHUNKED + chunk(bytes(size)) + b"0\r\n\r\n")
        return True

    with serving(serve) as port:
        assert len(_measured(ground, port).problems) == 1


@pytest.mark.usefixtures("small_files")
def test_a_server_that_gives_less_of_a_larger_file_has_a_problem(ground: Ground) -> None:
    small = file(ground, "ascii", CHECKED_BYTES).size

    def serve(connection: socket.socket, size: int) -> bool:
        if size == small:
            return echo(connection, size)
        swallow(connection, size)
        connection.sendall(CHUNKED + chunk(bytes(size - 1)) + b"0\r\n\r\n")
        return True

    with serving(serve) as port:
        problems = _measured(ground, port).problems
    assert ["bytes came, and" in problem for problem in problems] == [True]


def test_the_path_of_steps() -> None:
    assert transform_path(["csv-to-ndjson", "where:a == b"]) == (
        "/api/transform?step=csv-to-ndjson&step=where%3Aa+%3D%3D+b"
    )
