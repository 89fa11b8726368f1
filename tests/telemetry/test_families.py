"""The families: those that are promised, well named, and documented as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import app
from app.telemetry.families import FAMILIES, Family, table

README = (Path(app.__file__).parent.parent / "README.md").read_text()
PROMISED = {
    "http_requests_total": {"method", "route", "status", "outcome"},
    "http_request_duration_seconds": {"method", "route"},
    "http_first_byte_seconds": {"method", "route"},
    "http_requests_in_flight": set[str](),
    "http_response_bytes_total": {"method", "route"},
    "http_request_bytes_total": {"method", "route"},
    "sluice_connections": {"protocol", "state"},
    "sluice_db_connections": {"state"},
    "sluice_db_wait_seconds": set[str](),
    "sluice_db_query_seconds": set[str](),
    "sluice_db_queries_killed_total": set[str](),
    "sluice_threads": {"pool", "state"},
    "sluice_thread_wait_seconds": {"pool"},
    "sluice_thread_pool_utilisation": {"pool"},
    "sluice_compute_workers": {"state"},
    "sluice_compute_queue": set[str](),
    "sluice_compute_wait_seconds": set[str](),
    "sluice_compute_run_seconds": {"task"},
    "sluice_compute_killed_total": {"reason"},
    "sluice_jobs": {"state"},
    "sluice_channel_bytes": set[str](),
    "sluice_transform_bytes_total": {"step"},
    "sluice_upstream_seconds": {"view", "source", "outcome"},
    "sluice_breaker_state": {"view", "source", "state"},
    "sluice_live_subscribers": {"topic"},
    "sluice_live_dropped_total": {"topic", "policy"},
    "sluice_loop_lag_seconds": set[str](),
    "sluice_tasks": set[str](),
    "process_cpu_seconds_total": set[str](),
    "process_resident_memory_bytes": set[str](),
    "python_gc_collections_total": {"generation"},
}

every = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_promised_is_there(name: str) -> None:
    assert set(FAMILIES[name].labels) == PROMISED[name]


@every
def test_names_are_such_as_prometheus_asks_for(family: Family) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert family.kind != "histogram" or family.name.endswith("_seconds")
    assert bool(family.buckets) == (family.kind == "histogram")
    assert list(family.buckets) == sorted(set(family.buckets))
    assert family.merge == "sum" or family.kind == "gauge"
    assert not {"le", "quantile", "instance", "job"} & set(family.labels)


@every
def test_each_has_a_meaning_in_a_line(family: Family) -> None:
    assert family.meaning
    assert not {"\n", "|"} & set(family.meaning)


def test_the_readme_has_the_table() -> None:
    made = """.venv/bin/python -c 'from app.telemetry.families import table; print(table())'"""
    assert table() in README, f"the README's table of metrics is not the one that this makes:\n{made}"
