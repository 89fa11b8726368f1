"""What ``/metrics`` says, as Prometheus reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.exchange import Answer, ask

OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@dataclass(frozen=True)
class Scrape:
    """families: by name; a counter's without ``_total``."""

    families: dict[str, Metric]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, whatever else they have."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def samples(self, name: str, **labels: str) -> list[Any]:
        return [
            sample
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]


def read(answer: Answer) -> Scrape:
    assert answer.status == 200
    parse: Any = read_open_metrics if "openmetrics" in answer.fields["content-type"] else read_text
    return Scrape({family.name: family for family in parse(answer.body.decode())})


def scrape(port: int) -> Scrape:
    return read(ask(port, "GET", "/metrics"))
