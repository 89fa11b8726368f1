"""Exceptions into errors: groups are taken apart here, and only here."""

from __future__ import annotations

from collections.abc import Iterator

import trio
from werkzeug.exceptions import (
    HTTPException,
)
from werkzeug.exceptions import (
    MethodNotAllowed as WerkzeugMethodNotAllowed,
)
from werkzeug.exceptions import (
    NotFound as WerkzeugNotFound,
)

from app.errors import BadRequest, MethodNotAllowed, NotFound, SluiceError, StartError


def real_errors(raised: BaseException) -> list[BaseException]:
    """What was raised, but for cancellations: the leaves of a group, those that nobody expected first."""
    leaves = [leaf for leaf in _leaves(raised) if not isinstance(leaf, trio.Cancelled)]
    return sorted(leaves, key=lambda leaf: isinstance(leaf, SluiceError | HTTPException))


def as_sluice_error(error: BaseException, path: str) -> SluiceError:
    """What the client is told of ``error``."""
    match error:
        case SluiceError():
            return error
        case WerkzeugMethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return MethodNotAllowed(f"allowed here: {allowed}", headers={"allow": allowed})
        case WerkzeugNotFound():
            return NotFound(f"there is nothing at {path}")
        case HTTPException(code=int(code)) if 400 <= code < 500:
            return BadRequest(error.description or error.name)
        case _:
            return SluiceError("The server met an error that it did not expect; its log has the details.")


def start_errors(raised: BaseException) -> list[str]:
    """The lines of a start that cannot go on; none where something else was raised."""
    errors = real_errors(raised)
    if not all(isinstance(error, StartError) for error in errors):
        return []
    return [line for error in errors if isinstance(error, StartError) for line in error.lines]


def _leaves(raised: BaseException) -> Iterator[BaseException]:
    if isinstance(raised, BaseExceptionGroup):
        for one in raised.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(one)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield raised
