"""Tasks that end with their request only: one that asks whether it has to end, and one that does not."""

from __future__ import annotations

from app.compute import checkpoint, task


@task(name="bench-checks-in")
def checks_in() -> None:
    while True:
        checkpoint()


@task(name="bench-spins")
def spins() -> None:
    while True:
        pass
