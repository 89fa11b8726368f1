"""What the boundary logs, as the log's own processor for requests leaves it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

import app.telemetry.logs
import app.web.boundary
import app.web.lifespan
from app.telemetry.logs import _identify
from tests.web.wire import Wire


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[MutableMapping[str, Any]]:
    """The lines, as they are written. (structlog's own capture misses loggers that other tests made it cache.)"""
    captured = LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[_identify, captured], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    for module in (app.telemetry.logs, app.web.boundary, app.web.lifespan):
        monkeypatch.setattr(module, "_log", logger)
    return captured.entries


@pytest.fixture(params=["our wire", "stock"])
def any_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that tell of a client's end at once, and such that tell only whoever asks."""
    monkeypatch.setattr(Wire, "tells", request.param == "our wire")
