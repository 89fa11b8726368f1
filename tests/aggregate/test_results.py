"""What came of sources, in each of the forms in which it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.aggregate.results import CANCELLED, Settled, as_event, as_json, as_line, failure_of, last_event
from app.errors import UpstreamFailed, UpstreamTooLate

_LIVE = Settled("a", True, b'{"n":1.10}', None, 1.26, 1)
_STALE = Settled("b", False, b"null", "refused", 2, 3, "stale")
_REJECTED = Settled("c", True, None, "timeout", 3, 1)


def test_a_source_is_told_alike_in_all_forms() -> None:
    whole = json.loads(as_json([_LIVE, _STALE, _REJECTED]))
    assert whole["complete"] is False
    for one in (_LIVE, _STALE, _REJECTED):
        line = json.loads(as_line(one))
        assert line == {"source": one.source} | whole["sources"][one.source]
        event, data, *end = as_event(one).split(b"\n")
        assert (event, end) == (b"event: source", [b"", b""])
        assert json.loads(data.removeprefix(b"data: ")) == line
    assert as_json([_LIVE]) == (
        b'{"complete":true,"sources":{"a":{"status":"fulfilled","value":{"n":1.10},"ms":1.3,"attempts":1,"from":"live"}}}'
    )
    assert whole["sources"]["b"] == {
        "status": "fulfilled",
        "value": None,
        "reason": "refused",
        "ms": 2,
        "attempts": 3,
        "from": "stale",
    }


def test_the_last_event_tells_whether_it_is_complete() -> None:
    assert last_event([_LIVE]) == b'event: complete\ndata: {"complete":true}\n\n'
    assert b"false" in last_event([_LIVE, _STALE])


@pytest.mark.parametrize(
    ("reasons", "kind"),
    [
        (["timeout"], UpstreamTooLate),
        (["timeout", CANCELLED], UpstreamTooLate),
        (["refused", CANCELLED], UpstreamFailed),
        (["timeout", "status 503"], UpstreamFailed),
    ],
)
def test_only_for_time_a_failure_is_too_late(reasons: list[str], kind: type[Any]) -> None:
    settled = [Settled(f"s{number}", True, None, reason, 0, 1) for number, reason in enumerate(reasons)]
    failure = failure_of("v", [*settled, Settled("optional", False, None, "cut", 0, 1)])
    assert type(failure) is kind
    assert list(failure.members["sources"]) == [*(one.source for one in settled), "optional"]  # pyright: ignore[reportArgumentType]
    assert "cancelled" not in failure.detail
    assert "optional" not in failure.detail
