"""What a process for calls does first. It imports no more than it needs."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from app.flow.parents import watch_parent

SIGNALS_OF_THE_SERVER = (signal.SIGTERM, signal.SIGINT)
"""Often sent to a whole group of processes; its own finish what runs."""

# Behind the server, which is to answer while all processors compute.
_NICENESS = 10


def begin() -> None:
    """It watches its parent, and lets it go first. A signal to end is that one's, who is often sent one together with
    all its children, and then finishes what runs."""
    watch_parent()
    with suppress(OSError):
        os.nice(_NICENESS)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def always() -> bool:
    """Of a process that is for one call: whether it is to end after it."""
    return True
