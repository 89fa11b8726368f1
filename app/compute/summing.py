"""``sum-sqrt``: the computation that a request gets which asks for none."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from app.compute.tasks import checkpoint, progress, task

_BLOCK = 32_768  # two arrays of it stay in a core's own cache
_BLOCKS_BETWEEN_REPORTS = 64


@task(name="sum-sqrt", retry=True)
def sum_sqrt(n: Annotated[int, msgspec.Meta(ge=0, le=10**10, description="how many terms")] = 10**7) -> float:
    """The sum of the square roots of 0, 1, 2 … n - 1."""
    import numpy as np  # noqa: PLC0415 - takes long to load, and not each process needs it

    terms = np.arange(min(n, _BLOCK), dtype=np.float64)
    roots = np.empty_like(terms)
    sums: list[float] = []
    for start in range(0, n - n % _BLOCK, _BLOCK):
        np.sqrt(terms, out=roots)
        sums.append(float(np.add.reduce(roots)))
        terms += _BLOCK
        checkpoint()
        if len(sums) % _BLOCKS_BETWEEN_REPORTS == 0:
            progress(start + _BLOCK, n)
    sums.append(float(np.add.reduce(np.sqrt(terms[: n % _BLOCK]))))
    return math.fsum(sums)
