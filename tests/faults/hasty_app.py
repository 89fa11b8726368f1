"""Sluice whose instances take each other for dead much sooner, for Hypercorn: ``tests.faults.hasty_app:build()``."""

from __future__ import annotations

from functools import partial
from typing import Any


def build() -> Any:
    # Not above: worker processes import this module for their calls, and start faster without the server.
    from app import asgi, compose

    compose.open_instances = partial(compose.open_instances, beat_seconds=0.5, dead_seconds=2.5)
    return asgi.app
