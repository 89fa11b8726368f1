"""Bytes as they come in: chunk by chunk."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio


async def chunked(data: bytes, size: int = 64 * 1024) -> AsyncGenerator[bytes]:
    """``data`` in chunks of ``size``, with a checkpoint before each."""
    for start in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[start : start + size]


async def failing(data: bytes, error: BaseException) -> AsyncGenerator[bytes]:
    """``data``, and then ``error``."""
    async for chunk in chunked(data):
        yield chunk
    raise error
