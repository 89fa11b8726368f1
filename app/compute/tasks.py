"""What a task is: an annotated function with a name; and what it may say, and learn, while it runs.

Imported in worker processes too, by which a start is measured: nothing here is heavy.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, get_type_hints, overload

from app.compute.arguments import Arguments, Parameter, invalid_argument, names_report
from app.compute.stored_report import StoredReport
from app.flow import spans
from app.http.strict_json import Buffer

__all__ = [
    "Cancelled",
    "Hooks",
    "StoredReport",
    "Task",
    "checkpoint",
    "progress",
    "set_hooks",
    "span",
    "task",
    "task_of",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_ATTRIBUTE = "__sluice_task__"
_NO_REPORTS: Mapping[str, StoredReport] = {}


# -- while it runs -----------------------------------------------------------------------------------------------------


class Cancelled(BaseException):
    """Raised in a task that has been told to end. Clean up and let it pass: soon after, the process is killed."""


class Hooks(Protocol):
    """What listens to the task that runs. Each call is cheap where there is nothing to do."""

    def check(self) -> None:
        """*Errors*: Cancelled."""
        ...

    def report(self, done: float, total: float | None, message: str) -> None: ...


_hooks: Hooks | None = None


def set_hooks(hooks: Hooks | None) -> None:
    """``hooks`` for the task that this process runs next, or none."""
    global _hooks  # noqa: PLW0603 - a worker process runs one task at a time
    _hooks = hooks


def checkpoint() -> None:
    """A place where this task may end. Nothing happens outside of a worker. *Errors*: Cancelled."""
    if _hooks is not None:
        _hooks.check()


def progress(done: float, total: float | None = None, message: str = "") -> None:
    """Tells how far this task is, in units of its own, such as bytes; and is a `checkpoint`.

    To be called as often as is convenient: what is told more often than anybody can look is not passed on.
    *Errors*: Cancelled.
    """
    if _hooks is not None:
        _hooks.check()
        _hooks.report(done, total, message)


def span(name: str, **attributes: str | float | bool) -> AbstractContextManager[object]:
    """A part of this task, as a block, in the trace of the request that it runs for, where there is one."""
    return spans.span(name, dict(attributes))


# -- what it is --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A function that the engine runs.

    meaning: in a line. retry: it may run again where it is not known how far it came, such as after a crash.
    """

    name: str
    meaning: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    retry: bool
    _arguments: Arguments = field(repr=False, compare=False)

    @property
    def report_fields(self) -> tuple[str, ...]:
        """The arguments that name stored reports."""
        return self._arguments.report_fields

    def report_ids(self, raw: Buffer) -> dict[str, str]:
        """The user ids of the reports that have to be opened for ``raw``, by argument.

        *Errors*: BadJson; InvalidArguments.
        """
        return self._arguments.report_ids(raw)

    def decode(self, raw: Buffer, reports: Mapping[str, StoredReport] = _NO_REPORTS) -> dict[str, object]:
        """Keyword arguments for ``function``, from JSON: an object, or nothing. What is not given stays out.

        reports: those that ``raw`` names, opened, by argument.
        *Errors*: BadJson; InvalidArguments, which names each field that is wrong, missing or unknown.
        """
        arguments = self._arguments.decode(raw)
        for name in self._arguments.report_fields:
            if arguments.get(name) is not None:
                if name not in reports:
                    raise invalid_argument(name, "names a report in a request that is too large to name one")
                arguments[name] = reports[name]
        return arguments

    def check(self, raw: Buffer) -> None:
        """Whether ``raw`` are arguments for this task. *Errors*: BadJson; InvalidArguments, likewise."""
        self._arguments.decode(raw)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        return self._arguments.schema()


@overload
def task[**P, R](function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def task[**P, R](*, name: str | None = None, retry: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, *, name: str | None = None, retry: bool = False) -> Any:
    """Makes a task of a function, which stays what it was.

    Its arguments are given in JSON, by name, and are decoded by the types in its annotations; what it returns has to be
    something that JSON has a word for. The first line of its docstring is shown to clients.
    name: 1–128 of ``[a-z0-9._-]``, by default the function's own, with ``-`` for ``_``. retry: see `Task`.
    *Errors*: TypeError where it cannot be one.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, _ATTRIBUTE, _task(function, name, retry))
        return function

    return decorate if function is None else decorate(function)


def task_of(function: object) -> Task | None:
    """The task that was made of ``function``, if it was."""
    made = getattr(function, _ATTRIBUTE, None) if inspect.isfunction(function) else None
    return made if isinstance(made, Task) else None


def _task(function: Callable[..., Any], name: str | None, retry: bool) -> Task:
    if not inspect.isfunction(function) or _is_asynchronous(function):
        raise TypeError(f"task {function!r}: is no plain function")
    where = f"task {function.__module__}.{function.__qualname__}"
    chosen = function.__name__.replace("_", "-") if name is None else name
    if not _NAME.fullmatch(chosen):
        raise TypeError(f"{where}: the name {chosen!r} is not allowed: 1 to 128 of a-z 0-9 . _ -, first a-z or 0-9")
    try:
        parameters = _parameters(function)
        return Task(chosen, _meaning(function), function, parameters, retry, Arguments(parameters))
    except Exception as error:
        raise TypeError(f"{where}: {error}") from error


def _parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    annotations = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return tuple(_parameter(parameter, annotations) for parameter in parameters)


def _parameter(parameter: inspect.Parameter, annotations: Mapping[str, Any]) -> Parameter:
    name = parameter.name
    if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
        raise TypeError(f"{name}: is no argument that can be given by its name")
    if name not in annotations:
        raise TypeError(f"{name}: has no annotation")
    required = parameter.default is parameter.empty
    default = None if required else parameter.default
    return Parameter(name, annotations[name], required, default, names_report(annotations[name]))


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(function) for is_kind in kinds)


def _meaning(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").strip().partition("\n")[0]
