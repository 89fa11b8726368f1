"""Calls and their answers, and what is posted as a burden."""

from __future__ import annotations

import json
import math

import pytest

from tests.bench import compute
from tests.bench.beside import of_burden
from tests.bench.ground import Ground

_TEN = 19.30600052603572


@pytest.mark.parametrize("body", ['{"result":19.306000526035728}', '{"result": 19.30600052603571}\n'])
def test_a_sum_is_right_in_whatever_order_it_was_added(body: str) -> None:
    expected = compute.result_of(_TEN)
    assert expected.right(body.encode())
    assert expected.size <= len(body)


@pytest.mark.parametrize(
    "body", ['{"result": 19.306}', '{"result": "19.30600052603572"}', '{"sum": 1}', "[19.30600052603572]", "", "{"]
)
def test_whatever_else_is_wrong(body: str) -> None:
    assert not compute.result_of(_TEN).right(body.encode())


def test_the_sums_are_those_that_are_asked_for(ground: Ground) -> None:
    terms = json.loads(compute.COMPUTE_TRIVIAL.posted)["args"]["n"]
    exact = math.fsum(map(math.sqrt, range(terms)))
    assert json.loads(compute.COMPUTE_SUM.posted) == {"task": "sum-sqrt", "args": {}}
    for work, value in ((compute.COMPUTE_TRIVIAL, exact), (compute.COMPUTE_SUM, 21081849486.44)):
        assert work.answer(ground).right(json.dumps({"result": value}).encode())


def test_twenty_megabytes_of_numbers_are_one_call(ground: Ground) -> None:
    path, file, media_type = compute.BESIDE_JSON.posted(ground, quick=True)
    assert (path, media_type) == ("/api/process", "application/json")
    assert 19_800_000 < file.stat().st_size <= 20_000_000
    call = json.loads(file.read_bytes())
    assert call["task"] == "describe"
    assert len(call["args"]["numbers"]) > 1_000_000
    assert {type(number) for number in call["args"]["numbers"]} == {float}


def test_a_file_is_made_once(ground: Ground) -> None:
    compute.BESIDE_JSON.prepare(ground, quick=True)
    made = compute.numbers(ground)
    made.write_text("kept")
    assert compute.numbers(ground).read_text() == "kept"


def test_more_clients_call_than_there_are_workers(ground: Ground) -> None:
    _, options = compute.BESIDE_COMPUTE.burden_of(ground, compute.BESIDE_COMPUTE.connections, quick=True)
    given = dict(options)
    assert given["connections"] == compute.COMPUTE_WORKERS + 3
    assert json.loads(compute.long_sum(ground).read_text())["args"]["n"] > 10**7
    assert given["file"] == compute.long_sum(ground)


def test_what_a_burden_got_is_told_where_it_tells() -> None:
    told = [{"answers": 3, "seconds": 2.0}, {"answers": 5, "seconds": 2.0}]
    assert of_burden(told) == {"burden_answers_per_second": 2}
    assert of_burden([*told, {"bytes": 1}]) == {}
