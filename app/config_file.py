"""The file that ``SLUICE_CONFIG`` names, in TOML: what takes more than a line to say."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from app.live_config import LiveSettings, read_live

_TABLES = {"tasks": ("modules",)}


@dataclass(frozen=True)
class TaskSettings:
    """modules: with tasks in them, beside the built-in ones and those of installed packages."""

    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConfigFile:
    """What the file says, and in ``mistakes``, a line each, what is wrong with it."""

    tasks: TaskSettings = TaskSettings()
    live: LiveSettings = field(default_factory=LiveSettings)
    mistakes: tuple[str, ...] = ()


def read_config_file(path: str | None) -> ConfigFile:
    """The file at ``path``; without one, what holds where nothing is said."""
    if path is None:
        return ConfigFile()
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        return ConfigFile(mistakes=(f"{_refused(path)} that can be read: {error.strerror or error}",))
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or a path with a null character
        return ConfigFile(mistakes=(f"{_refused(path)}: {error}",))
    return _Reader(path, content).config()


def _refused(path: str) -> str:
    return f"SLUICE_CONFIG: {path!r} is not allowed: a TOML file"


class _Reader:
    """One pass over a file: mistakes collected rather than raised."""

    def __init__(self, path: str, content: dict[str, Any]) -> None:
        self._path, self._content = path, content
        self._mistakes: list[str] = []

    def config(self) -> ConfigFile:
        self._refuse_unknown(self._content, (*_TABLES, "live"), "")
        tasks = TaskSettings(self._names("tasks", "modules"))
        live, mistakes = read_live(self._content.get("live", {}))
        self._mistakes += [f"{self._path}: {mistake}" for mistake in mistakes]
        return ConfigFile(tasks=tasks, live=live, mistakes=tuple(self._mistakes))

    def _table(self, name: str) -> dict[str, Any]:
        table = self._content.get(name, {})
        if not isinstance(table, dict):
            self._refuse(name, table, f"a table, [{name}]")
            return {}
        found = cast("dict[str, Any]", table)
        self._refuse_unknown(found, _TABLES[name], f"{name}.")
        return found

    def _names(self, table: str, key: str) -> tuple[str, ...]:
        given: object = self._table(table).get(key, [])
        names = cast("list[object]", given) if isinstance(given, list) else [None]
        if all(isinstance(name, str) and _is_module_name(name) for name in names):
            return tuple(map(str, names))
        self._refuse(
            f"{table}.{key}", cast("object", given), 'a list of module names, such as ["our_tasks", "reports.tasks"]'
        )
        return ()

    def _refuse_unknown(self, given: Iterable[str], known: Iterable[str], where: str) -> None:
        for name in sorted(set(given) - set(known)):
            nearest = difflib.get_close_matches(name, known, n=1)
            told = f"did you mean {where}{nearest[0]}?" if nearest else f"known: {', '.join(known)}"
            self._mistakes.append(f"{self._path}: {where}{name}: is not known; {told}")

    def _refuse(self, name: str, value: object, allowed: str) -> None:
        self._mistakes.append(f"{self._path}: {name}: {value!r} is not allowed: {allowed}")


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
