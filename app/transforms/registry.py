"""The steps that there are."""

from __future__ import annotations

from collections.abc import Mapping

from app.transforms import csv_records, csv_writing, digests, json_arrays, record_steps, text
from app.transforms.compression import compression_steps
from app.transforms.step import Step


def steps_by_name(max_expansion: float) -> Mapping[str, Step]:
    """By name, in the order in which they are listed."""
    records = (*csv_records.STEPS, *csv_writing.STEPS, *json_arrays.STEPS, *record_steps.STEPS)
    steps = (*text.STEPS, *compression_steps(max_expansion), *records, *digests.STEPS)
    return {step.name: step for step in steps}
