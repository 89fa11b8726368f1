"""What stands behind the colon of a step, parsed. Pure."""

from __future__ import annotations

from collections.abc import Callable

from app.transforms.step import BadArguments, Transformer


def without_arguments(make: Callable[[], Transformer]) -> Callable[[str | None], Transformer]:
    """The ``make`` of a step that takes no arguments. *Errors*: BadArguments, from what is returned."""

    def checked(arguments: str | None) -> Transformer:
        if arguments is not None:
            raise BadArguments("takes no arguments")
        return make()

    return checked


def parse_level(arguments: str | None, default: int, most: int) -> int:
    """A level of compression from 1 to ``most``. *Errors*: BadArguments."""
    if arguments is None:
        return default
    # int() would also take signs, white space, underscores and the digits of other scripts.
    if not (arguments.isascii() and arguments.isdigit() and len(arguments) <= 2 and 1 <= int(arguments) <= most):
        raise BadArguments(f"takes a level from 1 to {most}")
    return int(arguments)
