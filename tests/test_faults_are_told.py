"""Exceptions into errors (`app.web.faults`): what is real in a group, and what a client or an operator is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import werkzeug.exceptions as werkzeug

from app.errors import BadUserId, DatabaseUnavailable, ReportNotFound, SluiceError, StartError
from app.web.faults import as_sluice_error, real_errors, start_errors

NOT_FOUND = ReportNotFound("nothing")
AWAY = DatabaseUnavailable("away")
BUG = ZeroDivisionError("a bug")


async def cancellation() -> trio.Cancelled:
    """A real one, for Trio lets nobody else make them."""
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            caught.append(error)
            raise
    return caught[0]


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("several", errors)


# -- what is real ------------------------------------------------------------------------------------------------------


def test_one_error_is_itself() -> None:
    assert real_errors(NOT_FOUND) == [NOT_FOUND]


def test_groups_are_taken_apart_however_deep() -> None:
    assert real_errors(group(group(group(AWAY)), group(NOT_FOUND))) == [AWAY, NOT_FOUND]


async def test_a_cancellation_is_no_error() -> None:
    assert real_errors(await cancellation()) == []
    assert real_errors(group(await cancellation(), group(await cancellation()))) == []


async def test_an_error_beside_a_cancellation_is_not_lost() -> None:
    assert real_errors(group(await cancellation(), group(BUG, await cancellation()))) == [BUG]


def test_what_nobody_expected_comes_first() -> None:
    gone = werkzeug.NotFound()
    assert real_errors(group(NOT_FOUND, gone, group(BUG), AWAY)) == [BUG, NOT_FOUND, gone, AWAY]


def test_the_end_of_the_process_is_not_hidden_in_a_group() -> None:
    interrupt = KeyboardInterrupt()
    assert real_errors(group(AWAY, interrupt))[0] is interrupt


# -- what the client is told -------------------------------------------------------------------------------------------


def test_an_error_of_ours_is_told_as_it_is() -> None:
    error = BadUserId("too long")
    assert as_sluice_error(error, "/") is error


def test_an_unknown_route_is_told_with_its_path() -> None:
    error = as_sluice_error(werkzeug.NotFound(), "/nowhere")
    assert (error.status, error.name) == (404, "not-found")
    assert "/nowhere" in error.detail


def test_a_wrong_method_is_told_with_those_that_are_allowed() -> None:
    error = as_sluice_error(werkzeug.MethodNotAllowed(valid_methods=["HEAD", "GET"]), "/")
    assert (error.status, error.name) == (405, "method-not-allowed")
    assert error.headers == {"allow": "GET, HEAD"}


@pytest.mark.parametrize("make", [werkzeug.BadRequest, werkzeug.UnsupportedMediaType, werkzeug.RequestURITooLarge])
def test_other_mistakes_of_the_client_are_bad_requests(make: Callable[[], werkzeug.HTTPException]) -> None:
    error = as_sluice_error(make(), "/")
    assert (error.status, error.name) == (400, "bad-request")
    assert error.detail


@pytest.mark.parametrize(
    "raised",
    [BUG, OSError(2, "no such file", "/srv/secret"), werkzeug.InternalServerError("secret"), werkzeug.HTTPException()],
)
def test_of_anything_else_the_client_learns_nothing(raised: BaseException) -> None:
    error = as_sluice_error(raised, "/")
    assert type(error) is SluiceError
    assert (error.status, error.title) == (500, "Internal server error")
    assert "secret" not in error.detail


# -- what the operator is told -----------------------------------------------------------------------------------------


def test_the_reasons_of_a_failed_start_are_told_line_by_line() -> None:
    assert start_errors(StartError("one", "two")) == ["one", "two"]
    assert start_errors(group(StartError("one"), group(StartError("two", "three")))) == ["one", "two", "three"]


async def test_a_cancellation_beside_them_changes_nothing() -> None:
    assert start_errors(group(await cancellation(), StartError("one"))) == ["one"]


async def test_what_is_no_reason_of_a_failed_start_is_not_told_as_one() -> None:
    assert start_errors(BUG) == []
    assert start_errors(AWAY) == []
    assert start_errors(await cancellation()) == []
    # A bug beside a reason must keep its traceback.
    assert start_errors(group(StartError("one"), BUG)) == []
