"""What jobs need of an engine: that it computes one call at a time, tells how far it is, and can be told to stop."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol


class Told(Protocol):
    """What a task last said of itself; ``total`` is None where it is not known."""

    @property
    def done(self) -> float: ...
    @property
    def total(self) -> float | None: ...
    @property
    def message(self) -> str: ...


class Submitted(Protocol):
    """One call that was accepted."""

    @property
    def state(self) -> Literal["queued", "running", "ended"]: ...

    @property
    def progress(self) -> Told: ...

    async def changed(self) -> None:
        """Returns once ``state`` or ``progress`` have changed since this was last called; at once when it has ended."""
        ...

    async def result(self) -> bytes:
        """What the task returned, as JSON. *Errors*: of the kind SluiceError; TaskCancelled after `cancel`.

        *Cancellation*: harmless."""
        ...

    def cancel(self) -> None:
        """It never starts; or it is told, and killed after the grace period. Harmless once it ended."""
        ...


class Engine[C](Protocol):
    def submit(self, call: C, /) -> AbstractAsyncContextManager[Submitted]:
        """*Cancellation*: leaving the block cancels the call, and waits until it is gone: the grace period at most.

        *Errors*: Overloaded, at once."""
        ...
