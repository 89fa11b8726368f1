"""What Prometheus and Grafana are given: promtool takes it, and it asks for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import app
from app.telemetry.families import FAMILIES
from tests.telemetry.alerts import ALERTS

DEPLOY = Path(app.__file__).parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
BOARD: Any = json.loads((DEPLOY / "grafana" / "sluice.json").read_text())

# What a query names that is neither a metric nor a label.
_WORDS = re.compile(r"(?<![\w$])[a-z_][a-z0-9_]*(?![\w(])")
_OPERATORS = {"by", "on", "and", "le", "sum", "max", "for"}
# Filled in by Grafana.
_VARIABLES = {"$__rate_interval": "5m", "$instance": ".*"}
_OF_PROMETHEUS = {"up"}


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        raise RuntimeError("promtool is not installed: `make services` installs it")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def panels() -> Iterator[Any]:
    return (panel for panel in BOARD["panels"] if panel["type"] != "row")


def queries() -> list[str]:
    """The board's, as Prometheus gets them."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    for name, value in _VARIABLES.items():
        found = [query.replace(name, value) for query in found]
    return found


def rules(where: Path) -> list[str]:
    """The alerts' expressions, as promtool reads them."""
    text = re.sub(r">-\n\s+(\S.*)\n\s+(\S.*)", r"\1 \2", where.read_text())
    return re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)


def metrics_of(query: str) -> set[str]:
    """Names of metrics, without what is added to those of histograms."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on) \([^)]*\)", " ", query)
    names = set(_WORDS.findall(bare)) - _OPERATORS
    return {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in names}


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


def test_promtool_takes_the_queries_of_the_board(tmp_path: Path) -> None:
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "board", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", str(tmp_path / "rules.yml"))


@pytest.mark.parametrize("query", dict.fromkeys([*queries(), *rules(RULES)]))
def test_each_query_asks_for_metrics_and_labels_that_there_are(query: str) -> None:
    asked = metrics_of(query)
    assert asked
    assert asked <= set(FAMILIES) | _OF_PROMETHEUS
    known = {label for name in asked - _OF_PROMETHEUS for label in FAMILIES[name].labels}
    labels = set(re.findall(r"(\w+) *(?:=~|!~|!=|=)(?!=) *\"", query))
    for words in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
        labels |= set(words.split(", "))
    assert labels <= known | {"instance", "job", "le"}


def test_a_name_that_is_none_is_found() -> None:
    assert metrics_of('sum by (route) (rate(http_request_total{outcome="x"}[5m]))') == {"http_request_total"}


def test_the_board_shows_every_family_that_is_not_shown_by_another_one() -> None:
    shown = set[str]().union(*map(metrics_of, queries()))
    assert set(FAMILIES) - shown == {
        "process_start_time_seconds",
        "python_gc_objects_collected_total",
        "python_gc_objects_uncollectable_total",
        "python_info",
    }


def test_the_boards_panels_stand_side_by_side() -> None:
    places = set[tuple[int, int]]()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & mine
        assert max(x for x, _ in mine) < 24
        places |= mine
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_each_alert_fires_when_its_cause_is_there_and_else_does_not(tmp_path: Path) -> None:
    names = re.findall(r"alert: (\w+)", RULES.read_text())
    assert set(ALERTS) == set(names)
    assert len(rules(RULES)) == len(names)
    tests: list[dict[str, Any]] = []
    for name, (sick, sound) in ALERTS.items():
        for series, fires in ((sick, True), (sound, False)):
            told = [{"series": one, "values": values} for one, values in series.items()]
            # Whether it fires, not what it says then.
            query = {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": "30m"}
            query |= {"exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
            tests.append({"interval": "1m", "input_series": told, "promql_expr_test": [query]})
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", str(file))
