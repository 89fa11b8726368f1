"""What the transforms tell to those who measure."""

from __future__ import annotations

from collections.abc import Iterable

from app.telemetry import families as f
from app.telemetry.metrics import Reading
from app.transforms.service import Transforms


def transforms_measures(transforms: Transforms) -> Iterable[Reading]:
    for step, size in transforms.given().items():
        yield f.TRANSFORM_BYTES, (step,), size
