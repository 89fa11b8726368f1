"""Loaded once, by the process that workers are copies of: what they and most tasks need."""

from __future__ import annotations

import os
from importlib import import_module

from app.compute.registry import BUILT_IN

# Libraries for numbers would start a thread for each processor, in each worker; and a copy of this process has none.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

for _name in ("numpy", "app.compute.worker", *BUILT_IN):
    import_module(_name)
