"""What a process for calls does first. It imports no more than it needs."""

from __future__ import annotations

import signal

from app.flow.parents import watch_parent

SIGNALS_OF_THE_SERVER = (signal.SIGTERM, signal.SIGINT)
"""Often sent to a whole group of processes; its own finish what runs."""


def begin() -> None:
    """It watches its parent. A signal to end is that one's, who is often sent one together with all its children, and
    then finishes what runs."""
    watch_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def always() -> bool:
    """Of a process that is for one call: whether it is to end after it."""
    return True
