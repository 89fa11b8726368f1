"""``add`` and ``demo``: what is stored."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from functools import partial

from app.cli.interruptible import run_interruptible
from app.compose import open_stores
from app.errors import StartError
from app.flow.threads import in_threads
from app.reports.description import entity_tag
from app.settings import Settings
from app.storage.blobs import CHUNK_BYTES
from app.telemetry.logs import configure_logs


def add(settings: Settings, parsed: argparse.Namespace) -> None:
    configure_logs(settings.telemetry.log_level, apart=False)

    async def store() -> None:
        async with open_stores(settings) as stores:
            try:
                source = parsed.file.open("rb")
                source.peek(1)
            except OSError as error:
                raise StartError(f"{parsed.file}: {error.strerror or error}") from error
            with source:
                try:
                    async with aclosing(in_threads(iter(partial(source.read, CHUNK_BYTES), b""))) as chunks:
                        replaced = await stores.reports.store(parsed.user, chunks, parsed.type, name=parsed.file.name)
                except OSError as error:
                    raise StartError(f"the report cannot be stored: {error.strerror or error}") from error
        entry = replaced.entry
        tag = entity_tag(entry.digest or "", entry.media_type or "")
        print(f"{entry.user_id}: version {entry.version}, {entry.size} bytes, {entry.media_type}, ETag {tag}")

    run_interruptible(store)


def demo(settings: Settings, parsed: argparse.Namespace) -> None:
    from app.reports.demo import demo_reports, large_report  # noqa: PLC0415 - slow to load, and needed here only

    configure_logs(settings.telemetry.log_level, apart=False)

    async def load() -> None:
        async with open_stores(settings) as stores:
            reports = [*demo_reports(), *([] if parsed.large is None else [large_report(parsed.large)])]
            for report in reports:
                known = await stores.reports.find(report.user_id)
                if known is None or known.digest != report.digest():
                    async with aclosing(in_threads(report.make())) as chunks:
                        known = (await stores.reports.store(report.user_id, chunks, report.media_type)).entry
                print(f"{known.user_id}: {known.size} bytes, {known.media_type}")

    run_interruptible(load)
