"""What a process for calls does first. It imports no more than it needs."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from contextlib import suppress
from pathlib import Path

from app.flow.parents import watch_parent

SIGNALS_OF_THE_SERVER = (signal.SIGTERM, signal.SIGINT)
"""Often sent to a whole group of processes; its own finish what runs."""

_PIPE_BYTES = 1024 * 1024


def begin() -> None:
    """It watches its parent, and makes room in its pipes for what a call mostly takes or gives, so that neither side
    waits for the other in the middle of it. A signal to end is its parent's, who is often sent one together with all
    its children, and then finishes what runs."""
    watch_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own, by then; or a pipe beyond what this user may have
            if stat.S_ISFIFO(os.fstat(int(entry.name)).st_mode):
                fcntl.fcntl(int(entry.name), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def always() -> bool:
    """Of a process that is for one call: whether it is to end after it."""
    return True
