"""``migrate``: the database, brought to the schema that this program needs."""

from __future__ import annotations

import argparse

from app.settings import Settings
from app.storage.migrate import migrate


def run(settings: Settings, _: argparse.Namespace) -> None:
    print(f"schema {migrate(settings.database)}")
