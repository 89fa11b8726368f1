"""Commands that end when they are told to."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import trio


def run_interruptible(command: Callable[[], Awaitable[None]]) -> None:
    """``command()`` to its end, or cancelled by Ctrl-C, SIGTERM or SIGHUP, which is then raised as KeyboardInterrupt.

    (Python's own way raises it between any two instructions, also where a scope has just been entered.)
    """

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_wait_for_signal, signals, nursery.cancel_scope)
                try:
                    await command()
                except Exception as error:
                    nonlocal failure
                    failure = error
                nursery.cancel_scope.cancel()

    async def _wait_for_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal interrupted
        async for _ in signals:
            interrupted = True
            scope.cancel()

    interrupted = False
    failure: Exception | None = None
    trio.run(run, restrict_keyboard_interrupt_to_checkpoints=True)
    if interrupted:
        raise KeyboardInterrupt
    if failure is not None:
        raise failure
