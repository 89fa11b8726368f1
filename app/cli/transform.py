"""``transform``: a pipeline from file to file."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from contextlib import AsyncExitStack
from typing import Any, BinaryIO

from tqdm import tqdm

from app.cli.interruptible import run_interruptible
from app.errors import StartError
from app.flow.threads import ThreadPool
from app.settings import Settings
from app.transforms.files import BLOCK_BYTES, open_source, open_target, read_file, write_file
from app.transforms.plan import Content
from app.transforms.service import Outcome, open_transforms


def run(settings: Settings, parsed: argparse.Namespace) -> None:
    outcome = Outcome()

    async def transform() -> None:
        threads = ThreadPool("files", 2)
        async with open_transforms(settings) as transforms, AsyncExitStack() as stack:
            plan = transforms.plan(parsed.step, Content.named(parsed.source))
            source = await stack.enter_async_context(open_source(parsed.source, threads))
            target = await stack.enter_async_context(open_target(parsed.target, threads))
            bar = stack.enter_context(_progress(source))
            blocks = read_file(source, threads, bar.update)
            chunks = await stack.enter_async_context(transforms.run(blocks, plan, outcome, at_once=BLOCK_BYTES))
            await write_file(target, chunks, threads)

    try:
        run_interruptible(transform)
    except OSError as error:
        name = parsed.source if str(error.filename) == parsed.source else parsed.target
        raise StartError(f"{name}: {error.strerror or error}") from error
    for digest in outcome.digests:
        print(f"sha256 {digest.hex()}", file=sys.stderr if parsed.target == "-" else sys.stdout)


def _progress(source: BinaryIO) -> tqdm[Any]:
    """A bar with the rate of what is read, on a terminal; elsewhere nothing."""
    status = os.fstat(source.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    return tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, disable=None, dynamic_ncols=True)
