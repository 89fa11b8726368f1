"""The steps that there are."""

from __future__ import annotations

from collections.abc import Mapping

from app.transforms import csv_records, digests, text
from app.transforms.compression import compression_steps
from app.transforms.step import Step


def steps_by_name(max_expansion: float) -> Mapping[str, Step]:
    """By name, in the order in which they are listed."""
    steps = (*text.STEPS, *compression_steps(max_expansion), *csv_records.STEPS, *digests.STEPS)
    return {step.name: step for step in steps}
