"""Stages that pass bytes on, each a task, in one nursery that ends with whoever reads from the last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from app.flow.channels import CHANNEL_BYTES, ChannelStatistics, Reader, ReaderGone, Writer, open_channel

type Stage = Callable[[Reader, Writer], Awaitable[None]]
"""Reads to the end, or as much as it wants, and writes. Its ends are closed when it returns or raises."""


class Output(AsyncIterator[bytes]):
    """What comes out of a pipeline, to be iterated."""

    def __init__(self, run: _Run, readers: Sequence[Reader]) -> None:
        self._run = run
        self._readers = readers

    async def __anext__(self) -> bytes:
        """The next chunk. *Cancellation*: nothing is lost. *Errors*: the pipeline's, also where chunks are left."""
        try:
            chunk = await anext(self._readers[-1])
        except (StopAsyncIteration, trio.BrokenResourceError):
            if self._run.failure is not None:
                raise self._run.failure from None
            raise
        if self._run.failure is not None:
            raise self._run.failure
        return chunk

    def statistics(self) -> list[ChannelStatistics]:
        """Of each channel, from the source's on."""
        return [reader.statistics() for reader in self._readers]


@asynccontextmanager
async def open_pipeline(
    source: AsyncIterable[bytes], *stages: Stage, max_bytes: int = CHANNEL_BYTES
) -> AsyncGenerator[Output]:
    """Runs ``source`` and ``stages``, joined by channels, for as long as the block lasts; yields what comes out.

    A stage that returns has read enough: those before it are ended, as nobody wants what they would still write.

    Bound: ``max_bytes`` a channel, of which there is one more than stages. Only what the block takes makes them move.

    *Cancellation*: leaving the block, however, ends the source and all stages before it returns; a source that can be
    closed is. *Errors*: the first that the source or a stage raises ends the others, and is raised at the iteration, or
    at the end of the block. (What else the block waits for, such as a write that must be whole, is left to end.) What
    leaves the block is never wrapped in a group.
    """
    run = _Run()
    left_by: BaseException | None = None
    async with trio.open_nursery() as nursery:
        run.nursery = nursery
        readers = run.start(source, stages, max_bytes)
        try:
            with readers[-1]:
                yield Output(run, readers)
        except BaseException as error:  # noqa: BLE001 - raised again below, where no nursery wraps it
            left_by = error
        # Shielded, so that nobody else's cancellation comes in between; the stages end by this very scope.
        nursery.cancel_scope.shield = True
        nursery.cancel_scope.cancel()
    if run.failure is not None and (left_by is None or isinstance(left_by, trio.Cancelled)):
        raise run.failure
    if left_by is not None:
        raise left_by


class _Run:
    """The running tasks of one pipeline."""

    nursery: trio.Nursery

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._scopes: list[trio.CancelScope] = []

    def start(self, source: AsyncIterable[bytes], stages: Sequence[Stage], max_bytes: int) -> list[Reader]:
        """The reading end of each channel."""
        nothing, reader = open_channel()
        nothing.close()
        readers: list[Reader] = []
        for stage in (partial(_pour, source), *stages):
            writer, following = open_channel(max_bytes)
            scope = trio.CancelScope()
            self.nursery.start_soon(self._run, stage, reader, writer, scope, tuple(self._scopes))
            self._scopes.append(scope)
            readers.append(reader := following)
        return readers

    async def _run(
        self, stage: Stage, reader: Reader, writer: Writer, scope: trio.CancelScope, before: Sequence[trio.CancelScope]
    ) -> None:
        complete = False
        try:
            with scope, reader:
                await stage(reader, writer)
                complete = True
        except ReaderGone:
            complete = True  # whoever reads from us has had enough
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller sees it
            self.failure = self.failure or error
            for one in self._scopes:
                one.cancel("failure")
        finally:
            if complete:
                writer.close()
                for one in before:
                    one.cancel("enough")
            else:
                writer.fail(trio.BrokenResourceError("the stage was ended"))


async def _pour(source: AsyncIterable[bytes], _: Reader, writer: Writer) -> None:
    """An iterable as the first stage."""
    async with closing_source(source):
        async for chunk in source:
            await writer.send(chunk)


@asynccontextmanager
async def closing_source(source: AsyncIterable[bytes]) -> AsyncGenerator[None]:
    """Closes ``source`` at the end of the block, if it can be closed."""
    try:
        yield
    finally:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()
