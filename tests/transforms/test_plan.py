"""Plans: the steps that are asked for, and whether each can read what the one before it gives."""

from __future__ import annotations

import pytest

from app.transforms.plan import MOST_STEPS, BadStep, Content, make_plan
from app.transforms.registry import steps_by_name

_REGISTRY = steps_by_name(200)


def _gives(asked: list[str], media_type: str | None = None, *, stored: bool = False) -> Content:
    content = Content.stored(media_type or "") if stored else Content.of(media_type)
    return make_plan(_REGISTRY, asked, content).gives


@pytest.mark.parametrize(
    ("asked", "given", "media_type", "coding"),
    [
        (["upper"], None, "text/plain; charset=utf-8", None),
        (["csv-to-ndjson"], None, "application/x-ndjson", None),
        (["csv-to-ndjson", "select:a", "head:5", "ndjson-to-csv"], "text/csv", "text/csv; charset=utf-8", None),
        (["ndjson-to-json"], "application/x-ndjson", "application/json", None),
        (["json-to-ndjson"], "application/json", "application/x-ndjson", None),
        (["gzip"], "text/csv; header=present", "text/csv; header=present", "gzip"),
        (["csv-to-ndjson", "gzip"], None, "application/x-ndjson", "gzip"),
        (["gzip", "zstd"], "image/png", "image/png", "gzip, zstd"),
        (["gunzip"], None, "application/octet-stream", None),
        (["gunzip", "csv-to-ndjson"], "application/gzip", "application/x-ndjson", None),
        (["gunzip", "upper"], None, "text/plain; charset=utf-8", None),
        (["csv-to-ndjson", "gzip", "gunzip", "select:a"], None, "application/x-ndjson", None),
        (["sha256"], "image/png", "image/png", None),
        (["sha256"], None, "application/octet-stream", None),
        (["sha256", "select:a", "sha256"], None, "application/x-ndjson", None),
        (["select:a"], "text/plain", "application/x-ndjson", None),
        (["upper", "csv-to-ndjson"], None, "application/x-ndjson", None),
    ],
)
def test_what_comes_out_is_said_by_the_last_step(
    asked: list[str], given: str | None, media_type: str, coding: str | None
) -> None:
    content = _gives(asked, given)
    assert (content.media_type, content.coding) == (media_type, coding)


@pytest.mark.parametrize(
    ("asked", "given", "words"),
    [
        (["gzip", "upper"], None, ["step 2, upper, wants", "text", "step 1, gzip, gives gzip"]),
        (["gunzip", "select:a"], None, ["step 2, select, wants ndjson; step 1, gunzip, gives bytes"]),
        (["upper", "select:a"], None, ["select, wants ndjson", "upper, gives text"]),
        (["select:a"], "text/csv", ["step 1, select, wants ndjson; the body gives csv"]),
        (["csv-to-ndjson", "csv-to-ndjson"], None, ["step 2, csv-to-ndjson, wants"]),
        (["upper"], "application/gzip", ["the body gives gzip"]),
        (["gunzip"], "application/zstd", ["the body gives zstd"]),
        (["zstd", "gunzip"], None, ["step 2, gunzip, wants"]),
        (["shout"], None, ["step 1, 'shout', is none of", "upper"]),
        (["upper", ""], None, ["step 2, ''"]),
        (["upper:loud"], None, ["step 1, upper:"]),
        (["head:x"], None, ["step 1, head:"]),
        ([], None, ["no step", "/api/transform/steps"]),
        (["upper"] * (MOST_STEPS + 1), None, [f"at most {MOST_STEPS}"]),
        (["gzip"] * 5, None, ["at most 4 steps may compress"]),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(asked: list[str], given: str | None, words: list[str]) -> None:
    with pytest.raises(BadStep) as caught:
        _gives(asked, given)
    assert all(word in caught.value.detail for word in words), caught.value.detail


@pytest.mark.parametrize(
    ("media_type", "asked", "fine"),
    [
        ("application/pdf", "select:a", False),
        ("application/octet-stream", "select:a", False),
        ("text/csv; charset=utf-8", "csv-to-ndjson", True),
        ("text/plain", "upper", True),
        ("application/x-ndjson", "select:a", True),
        ("application/pdf", "gzip", True),
    ],
)
def test_a_report_is_what_it_is_stored_as(media_type: str, asked: str, fine: bool) -> None:
    if fine:
        _gives([asked], media_type, stored=True)
    else:
        with pytest.raises(BadStep, match="the body gives bytes"):
            _gives([asked], media_type, stored=True)


@pytest.mark.parametrize(
    ("file", "asked", "media_type"),
    [
        ("in.ndjson.gz", ["gunzip", "select:a"], "application/x-ndjson"),
        ("IN.CSV.zst", ["unzstd", "csv-to-ndjson"], "application/x-ndjson"),
        ("in.ndjson", ["select:a"], "application/x-ndjson"),
        ("-", ["select:a"], "application/x-ndjson"),
    ],
)
def test_a_file_is_what_its_name_says(file: str, asked: list[str], media_type: str) -> None:
    assert make_plan(_REGISTRY, asked, Content.named(file)).gives.media_type == media_type


@pytest.mark.parametrize(("file", "asked"), [("in.csv", ["select:a"]), ("in.csv.gz", ["upper"])])
def test_and_is_refused_where_that_is_another(file: str, asked: list[str]) -> None:
    with pytest.raises(BadStep):
        make_plan(_REGISTRY, asked, Content.named(file))


def test_steps_that_run_in_one_place_run_together() -> None:
    asked = ["csv-to-ndjson", "select:a", "head:3", "gzip"]
    plan = make_plan(_REGISTRY, asked, Content.of(None))
    assert [place for place, _ in plan.groups()][-1] == "thread"
    assert sum(len(chain) for _, chain in plan.groups()) == 4
    first, again = plan.groups(), plan.groups()
    assert first[0][1][0] is not again[0][1][0]


def test_each_step_says_what_it_is() -> None:
    for name, step in _REGISTRY.items():
        assert name == step.name
        assert step.meaning
        assert step.memory
        assert step.takes
