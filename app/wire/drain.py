"""The end of a worker process, by a signal, its master or its master's death; running requests get their time."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from app.flow.drain import DrainGate
from app.flow.parents import parent_ended

_log = structlog.get_logger()

# What a second signal, or the master's death, leaves the answers to requests that are cut.
_HURRY_SECONDS = 1.0

type Trigger = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Drain:
    """How a worker ends. second_signal_cuts: whether being told twice ends what runs at once."""

    gate: DrainGate
    delay: float
    timeout: float
    second_signal_cuts: bool = False


async def drain_when_told(
    drain: Drain,
    stop_listening: Callable[[], None],
    scope: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Waits for a signal or for the gate, then: the delay, ``stop_listening()``, the time-out, the cut.

    scope: is cancelled where there is no time for that.
    """
    # A worker's SIGINT is ignored: a terminal sends it to the whole group, and the master passes it on in its own way.
    signals = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signals.append(signal.SIGINT)
    with trio.open_signal_receiver(*signals) as received:
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, received, drain, scope)
            await drain.gate.wait_started()
            with trio.move_on_after(drain.delay):
                await drain.gate.wait_cut()
            stop_listening()
            with trio.move_on_after(drain.timeout):
                await drain.gate.wait_idle()
            drain.gate.cut()


async def drain_after(trigger: Trigger, gate: DrainGate) -> None:
    """Begins the drain when ``trigger()`` returns."""
    await trigger()
    if not gate.draining:
        _log.info("shutting down", running=gate.statistics().running)
        gate.start()


async def abandon_start(gate: DrainGate, up: trio.Event, scope: trio.CancelScope) -> None:
    """A start that is told to end before it is done ends there and then: it may wait for a database."""
    await gate.wait_started()
    if not up.is_set():
        _log.info("start interrupted")
        scope.cancel()


async def end_with_parent(gate: DrainGate, scope: trio.CancelScope) -> None:
    """A worker whose master was killed has nobody who would end it, or start another: it ends at once."""
    await parent_ended()
    _log.error("the master process is gone", running=gate.statistics().running)
    gate.start()
    gate.cut()
    await trio.sleep(_HURRY_SECONDS)
    scope.cancel()


async def refuse_when_all_end(stopped: trio.Event, trigger: Trigger, listening: Sequence[socket.socket]) -> None:
    """When all workers end, nobody may connect any more: new connections are reset.

    The master holds the listening sockets too, until its own end; connections that the kernel took for it would wait
    for nobody. (Shutting the sockets down would fail the `accept` of a worker that has not been told yet.) A worker
    that ends alone leaves new connections to the others.
    """
    copies = [trio.socket.from_stdlib_socket(listener.dup()) for listener in listening]
    try:
        await stopped.wait()
        await trigger()
        async with trio.open_nursery() as nursery:
            for copy in copies:
                nursery.start_soon(_reset_all, trio.SocketListener(copy))
    finally:
        for copy in copies:
            copy.close()


async def _listen(received: AsyncIterator[int], drain: Drain, scope: trio.CancelScope) -> None:
    async for number in received:
        if not drain.gate.draining:
            running = drain.gate.statistics().running
            _log.info("shutting down", signal=signal.Signals(number).name, running=running)
            drain.gate.start()
        elif drain.second_signal_cuts:
            _log.info("cutting", signal=signal.Signals(number).name)
            drain.gate.cut()
            await trio.sleep(_HURRY_SECONDS)
            scope.cancel()


async def _reset_all(listener: trio.SocketListener) -> None:
    while True:
        try:
            stream = await listener.accept()
        except OSError:
            await trio.sleep(0.1)  # out of descriptors, or a client that was gone before us
        else:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()
