"""The file that ``SLUICE_CONFIG`` names, in TOML: what takes more than a line to say."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.config.aggregate import AggregateSettings, read_aggregate
from app.config.live import LiveSettings, read_live
from app.config.tables import Mistakes, Table

_TABLES = ("tasks", "aggregate", "live")


@dataclass(frozen=True)
class TaskSettings:
    """modules: with tasks in them, beside the built-in ones and those of installed packages."""

    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConfigFile:
    """What the file says, and in ``mistakes``, a line each, what is wrong with it."""

    tasks: TaskSettings = TaskSettings()
    aggregate: AggregateSettings = field(default_factory=AggregateSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    mistakes: tuple[str, ...] = ()


def read_config_file(path: str | None, environment: Mapping[str, str] | None = None) -> ConfigFile:
    """The file at ``path``; without one, what holds where nothing is said. environment: what it may refer to."""
    if path is None:
        return ConfigFile()
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        return ConfigFile(mistakes=(f"{_refused(path)} that can be read: {error.strerror or error}",))
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or a path with a null character
        return ConfigFile(mistakes=(f"{_refused(path)}: {error}",))
    return _read(path, content, environment or {})


def _refused(path: str) -> str:
    return f"SLUICE_CONFIG: {path!r} is not allowed: a TOML file"


def _read(path: str, content: dict[str, Any], environment: Mapping[str, str]) -> ConfigFile:
    mistakes = Mistakes(path)
    mistakes.refuse_unknown(content, _TABLES, "")
    tasks = TaskSettings(_module_names(Table("tasks", content.get("tasks", {}), mistakes, ("modules",))))
    aggregate = read_aggregate(content.get("aggregate", {}), environment, mistakes)
    live = read_live(content.get("live", {}), mistakes)
    return ConfigFile(tasks, aggregate, live, tuple(mistakes.lines))


def _module_names(table: Table) -> tuple[str, ...]:
    return table.texts("modules", _is_module_name, 'module names, such as ["our_tasks", "reports.tasks"]')


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
