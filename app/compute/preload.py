"""Loaded once, by the process that workers are copies of: what they and most tasks need."""

from __future__ import annotations

import os

# Libraries for numbers would start a thread for each processor, in each worker; and a copy of this process has none.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy  # noqa: E402, F401  # pyright: ignore[reportUnusedImport]

import app.compute.worker  # noqa: E402, F401  # pyright: ignore[reportUnusedImport]
