"""``check``: what is wrong, in words."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

from app.cli.interruptible import run_interruptible
from app.compose import open_database
from app.compute.registry import load_tasks
from app.errors import StartError
from app.flow.threads import ThreadPool
from app.settings import Settings, describe
from app.storage.blobs import open_blobs
from app.storage.schema import check_schema
from app.telemetry.logs import configure_logs
from app.web.faults import start_errors


def run(settings: Settings, _: argparse.Namespace) -> None:
    configure_logs(settings.telemetry.log_level, apart=False)
    print("\n".join(describe(settings)))
    mistakes: list[str] = []

    async def examine(name: str, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
        except Exception as raised:
            lines = start_errors(raised)
            if not lines:
                raise
            mistakes.extend(lines)
            print(f"{name}: failing")
        else:
            print(f"{name}: ok")

    async def database() -> None:
        async with open_database(settings) as opened:
            await check_schema(opened)

    async def reports() -> None:
        await open_blobs(settings.reports.directory, ThreadPool("files", 1))

    async def tasks() -> None:
        load_tasks(settings.tasks.modules)

    async def examine_all() -> None:
        await examine("database", database)
        await examine("reports", reports)
        await examine("tasks", tasks)

    run_interruptible(examine_all)
    if mistakes:
        raise StartError(*mistakes)
