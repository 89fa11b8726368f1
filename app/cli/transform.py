"""``transform``: a pipeline from file to file."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

from tqdm import tqdm

from app.cli.interruptible import run_interruptible
from app.errors import StartError
from app.flow.threads import ThreadPool
from app.settings import Settings
from app.transforms.files import read_file, replacing, write_file
from app.transforms.plan import Content
from app.transforms.service import Outcome, open_transforms


def run(settings: Settings, parsed: argparse.Namespace) -> None:
    outcome = Outcome()

    async def transform() -> None:
        threads = ThreadPool("files", 2)
        async with open_transforms(settings) as transforms, AsyncExitStack() as stack:
            plan = transforms.plan(parsed.step, Content.of(None))
            source = stack.enter_context(_opened(parsed.source))
            target = stack.enter_context(_standard(1) if parsed.target == "-" else replacing(Path(parsed.target)))
            bar = stack.enter_context(_progress(source))
            blocks = read_file(source, threads, bar.update)
            chunks = await stack.enter_async_context(transforms.run(blocks, plan, outcome))
            await write_file(target, chunks, threads)

    try:
        run_interruptible(transform)
    except OSError as error:
        raise StartError(f"{error.filename or parsed.target}: {error.strerror or error}") from error
    for digest in outcome.digests:
        print(f"sha256 {digest.hex()}", file=sys.stderr if parsed.target == "-" else sys.stdout)


def _standard(descriptor: int) -> BinaryIO:
    """Standard input or output, as the unbuffered file that it is."""
    return cast("BinaryIO", open(descriptor, "rb" if descriptor == 0 else "wb", buffering=0, closefd=False))


def _opened(name: str) -> BinaryIO:
    return _standard(0) if name == "-" else cast("BinaryIO", Path(name).open("rb", buffering=0))


def _progress(source: BinaryIO) -> tqdm[Any]:
    """A bar with the rate of what is read, on a terminal; elsewhere nothing."""
    status = os.fstat(source.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    return tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, disable=None, dynamic_ncols=True)
