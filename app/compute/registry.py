"""The tasks that there are: the built-in ones, those of installed packages, and those of modules in the settings.

A plug-in is a module with tasks in it. A package tells of it by an entry point of the group ``sluice.tasks``, whose
value is a module, or a task in one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from types import MappingProxyType, ModuleType

from app.compute.requests import DEFAULT_TASK, parse_request
from app.compute.tasks import Task, task_of
from app.errors import StartError, UnknownTask

__all__ = ["BUILT_IN", "DEFAULT_TASK", "GROUP", "load_tasks", "parse_request", "task_named"]

GROUP = "sluice.tasks"
BUILT_IN = ("app.compute.summing", "app.compute.describing", "app.compute.hashing")


def load_tasks(modules: Sequence[str]) -> Mapping[str, Task]:
    """The tasks by name: built in, of each entry point, and of each of ``modules``.

    *Errors*: StartError, one line for each module or entry point that cannot be imported, or has no task in it, and for
    each name that two tasks have.
    """
    tasks: dict[str, Task] = {}
    origins: dict[str, str] = {}
    mistakes: list[str] = []
    for origin, load in _sources(modules):
        try:
            found = _tasks_in(load, origin)
        except StartError as error:
            mistakes += error.lines
            continue
        for task in found:
            if tasks.setdefault(task.name, task) is not task:
                mistakes.append(
                    f"{origin}: {_place(task)}: there is a task {task.name} already, of {origins[task.name]}"
                )
            origins.setdefault(task.name, origin)
    if mistakes:
        raise StartError(*mistakes)
    return MappingProxyType(tasks)


def task_named(tasks: Mapping[str, Task], name: str) -> Task:
    """*Errors*: UnknownTask, with the nearest name."""
    if name in tasks:
        return tasks[name]
    shown = name if len(name) <= 128 else f"{name[:128]}…"
    nearest = difflib.get_close_matches(name[:128], tasks, n=1)
    raise UnknownTask(f"there is no task {shown!r}" + (f"; did you mean {nearest[0]}?" if nearest else ""))


def _sources(modules: Sequence[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    for name in BUILT_IN:
        yield name, lambda name=name: import_module(name)
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        yield f"entry point {entry.name} = {entry.value} of {GROUP}", entry.load
    for name in dict.fromkeys(modules):
        yield f"task module {name}", lambda name=name: import_module(name)


def _tasks_in(load: Callable[[], object], origin: str) -> list[Task]:
    try:
        loaded = load()
    except (Exception, SystemExit) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise StartError(f"{origin}: cannot be imported: {words}") from error
    candidates = list(vars(loaded).values()) if isinstance(loaded, ModuleType) else [loaded]
    # A function may have two names in a module.
    found = {id(task): task for task in map(task_of, candidates) if task is not None}
    if not found:
        raise StartError(f"{origin}: has no task in it: a function with @task of app.compute")
    return list(found.values())


def _place(task: Task) -> str:
    return f"{task.function.__module__}.{task.function.__qualname__}"
