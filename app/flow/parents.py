"""The death of a process's parent: whom it started ends as well, however it died, so that no orphan is left.

For processes that `multiprocessing` started. What they do not use is ``PR_SET_PDEATHSIG``: it follows the thread that
created the process, and Trio's threads end when they are idle.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import select
import signal
import threading
from multiprocessing.process import BaseProcess
from typing import NoReturn, cast


def watch_parent() -> None:
    """Has this process killed as soon as its parent is dead, whatever its main thread does; at once if it is.

    Twice, for each way misses something. The kernel's signal needs no thread of ours, which a call in C that keeps
    the interpreter's lock would hold up, but its pipe ends only with the last copy: a process that the parent forked,
    and that outlives it, has one. A pidfd ends with the parent.

    *Errors*: RuntimeError in a process that `multiprocessing` did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process has no parent to watch")
    _have_the_kernel_kill(parent.sentinel)
    # A death from here on ends us; one that came before is found here, where no thread needs its turn.
    descriptor = _open(parent)
    if descriptor is None:
        _die()
    threading.Thread(target=_die_after, args=(descriptor,), name="parent watch", daemon=True).start()


async def parent_ended() -> None:
    """Returns when the parent is dead; never in a process that `multiprocessing` did not start.

    *Cancellation*: at once.
    """
    import trio  # noqa: PLC0415 - a worker process imports this module too, and starts without Trio in half the time

    parent = multiprocessing.parent_process()
    if parent is None:
        await trio.sleep_forever()
    descriptor = _open(parent)
    if descriptor is None:
        await trio.lowlevel.checkpoint()
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def _open(parent: BaseProcess) -> int | None:
    """A descriptor, the caller's to close, that is readable when the parent is dead; None if it is dead now."""
    pid = cast("int", parent.pid)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError:  # a kernel, or a container's filter, that knows no pidfd
        return os.dup(parent.sentinel) if parent.is_alive() else None
    # Whoever has got the number of a dead parent meanwhile is not ours.
    if parent.is_alive():
        return descriptor
    os.close(descriptor)
    return None


def _have_the_kernel_kill(pipe: int) -> None:
    """SIGKILL by the kernel when ``pipe``, which the parent never writes to again, has no writer left (fcntl(2))."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _die_after(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    _die()


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)  # which is not reached
