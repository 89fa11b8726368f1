"""What tests of the benchmark share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench.ground import Ground


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """Folders alone."""
    nothing = cast("Any", None)
    return Ground(tmp_path, tmp_path, tmp_path, tmp_path, nothing, {}, tmp_path, {}, b"")
