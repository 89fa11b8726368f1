"""Medians, ratios and tables of rounds."""

from __future__ import annotations

from tests.bench import record
from tests.bench.record import Round
from tests.bench.roster import PEERS
from tests.bench.works import WORKS

_WORK = WORKS["report"]


def _round(peer: str, number: int, rate: float, *problems: str, **others: float) -> Round:
    return Round("report", peer, number, 0.0, {"requests_per_second": rate, **others}, list(problems))


_ROUNDS = [
    _round("express", 1, 100),
    _round("express", 2, 300, p99_ms=6.0),
    _round("express", 3, 200),
    _round("sluice-mysql", 1, 1000),
    _round("sluice-mysql", 2, 9, "wrk counted 3 read errors"),
]


def test_rounds_with_problems_do_not_count() -> None:
    assert record.medians(_WORK, _ROUNDS) == {
        "express": {"requests_per_second": 200, "p99_ms": 6.0},
        "sluice-mysql": {"requests_per_second": 1000},
    }
    assert record.problems(_ROUNDS) == ["sluice-mysql, report, round 2: wrk counted 3 read errors"]


def test_ratios_are_of_the_medians_to_the_reference() -> None:
    assert record.ratios(_WORK, record.medians(_WORK, _ROUNDS))["sluice-mysql"] == {"requests_per_second": 5}


def test_a_table_has_a_line_for_each_peer_measured_or_not() -> None:
    heading, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in record.table(_WORK, _ROUNDS).splitlines()
    ]
    assert [line[0] for line in lines] == [PEERS[name].title for name in _WORK.peers]
    assert heading[:4] == ["peer", "requests/s", "least–most", "× Express"]
    assert [line[1:4] for line in lines[:3]] == [
        ["200", "100–300", "1.00"],
        ["–"] * 3,
        ["1,000", "1,000–1,000", "5.00"],
    ]


def test_targets_are_told_one_a_line() -> None:
    table = record.verdict_table(record.verdicts(_WORK, _ROUNDS)).splitlines()[2:]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert lines[0] == ["Sluice on MariaDB: requests/s ÷ Express's", "≥ 5", "5.00", "met"]
    assert lines[1][2:] == ["–", "not measured"]


def test_every_work_names_peers_and_figures_that_there_are() -> None:
    for work in WORKS.values():
        assert {*work.peers, work.reference, *(target.peer for target in work.targets)} <= PEERS.keys()
        assert {target.peer for target in work.targets} | {work.reference} <= {*work.peers}
        assert {target.figure for target in work.targets} <= {column.figure for column in work.columns}
