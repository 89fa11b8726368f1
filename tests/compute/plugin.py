"""A plug-in: tasks outside of the application."""

from __future__ import annotations

from app.compute import progress, task


@task(name="plugin.double")
def double(number: int) -> int:
    """Twice the number."""
    progress(1, 2, "half")
    return 2 * number


again = double
not_a_task = 3
