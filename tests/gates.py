"""A request that runs, for those who need one."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from app.flow.drain import DrainGate
from app.flow.request import RequestScope


@contextmanager
def running(gate: DrainGate, request: RequestScope) -> Generator[None]:
    """``request`` runs for as long as the context lasts."""
    gate.enter(request)
    try:
        yield
    finally:
        gate.leave(request)
