"""The outermost layer: what every answer carries, what becomes of exceptions, and the line in the log."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

import pytest
import trio
import werkzeug.exceptions
from trio.testing import MockClock

from app.errors import BadUserId, DatabaseUnavailable, ReportNotFound, ReportUnreadable, SluiceError
from app.flow.request import current_request
from app.wire.asgi import Receive, Scope, Send
from tests.web.wire import Handler, Wire, answer, ask, chunk, raising, start, wait

type Log = list[MutableMapping[str, Any]]

pytestmark = pytest.mark.usefixtures("any_server")


def _leaves(raised: BaseException) -> list[BaseException]:
    return (
        [leaf for one in raised.exceptions for leaf in _leaves(one)]
        if isinstance(raised, BaseExceptionGroup)
        else [raised]
    )


_TRACE = "0af7651916cd43dd8448eb211c80319c"
_TRACEPARENT = f"00-{_TRACE}-b7ad6b7169203331-01"
_UNEXPECTED = {
    "type": "urn:sluice:error:internal",
    "title": "Internal server error",
    "status": 500,
    "detail": "The server met an error that it did not expect; its log has the details.",
    "request_id": "id-1",
    "error": "Internal server error",
}


def errors(log: Log) -> Log:
    return [line for line in log if line["log_level"] != "info"]


# -- request ids and traces --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("application", "fields", "status"),
    [
        (answer, {}, 200),
        (raising(ReportNotFound("none")), {}, 404),
        (raising(ValueError("secret")), {}, 500),
        (answer, {"sluice-deadline": "no number"}, 400),
        (wait, {"sluice-deadline": "0.1"}, 504),
    ],
)
async def test_every_answer_carries_the_clients_request_id_and_its_trace(
    autojump_clock: MockClock, application: Handler, fields: dict[str, str], status: int
) -> None:
    wire = await ask(application, {**fields, "x-request-id": "A.b_c-9", "traceparent": _TRACEPARENT})
    assert (wire.status, wire.complete) == (status, True)
    assert wire.fields[b"x-request-id"] == b"A.b_c-9"
    assert wire.fields[b"traceparent"].startswith(f"00-{_TRACE}-".encode())
    if status != 200:
        assert wire.problem["request_id"] == "A.b_c-9"


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 65, b"na\xefve", b"a\x00", b"a/b", b"a,b"])
async def test_a_request_id_that_is_not_allowed_is_replaced(given: bytes) -> None:
    wire = await ask(answer, {"x-request-id": given})
    assert wire.fields[b"x-request-id"] != given
    assert re.fullmatch(rb"[A-Za-z0-9._-]{1,64}", wire.fields[b"x-request-id"])


async def test_requests_without_an_id_get_one_each() -> None:
    assert len({(await ask(answer)).fields[b"x-request-id"] for _ in range(20)}) == 20


async def test_the_trace_goes_on_with_a_span_of_our_own(log: Log) -> None:
    wire = await ask(answer, {"traceparent": _TRACEPARENT})
    assert re.fullmatch(rf"00-{_TRACE}-[0-9a-f]{{16}}-01", wire.fields[b"traceparent"].decode())
    assert wire.fields[b"traceparent"] != _TRACEPARENT.encode()
    assert log[-1]["trace_id"] == _TRACE


@pytest.mark.parametrize("given", ["", "00-0-0-01", _TRACEPARENT.upper(), f"00-{'0' * 32}-b7ad6b7169203331-01"])
async def test_without_a_valid_trace_none_is_made_up(given: str) -> None:
    assert b"traceparent" not in (await ask(answer, {"traceparent": given})).fields


async def test_the_application_sees_its_request_and_nobody_sees_it_afterwards() -> None:
    seen: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_request.get().id)
        await answer(scope, receive, send)

    await ask(application, {"x-request-id": "id-1"})
    assert seen == ["id-1"]
    assert current_request.get(None) is None


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_an_unexpected_error_is_answered_without_its_words_and_logged_with_its_traceback(log: Log) -> None:
    wire = await ask(raising(ValueError("secret")), {"x-request-id": "id-1"})
    assert wire.problem == _UNEXPECTED
    (line,) = errors(log)
    assert line["request_id"] == "id-1"
    assert line["exc_info"] is not None
    assert log[-1]["outcome"] == "error"


@pytest.mark.parametrize("error", [ReportNotFound("none"), BadUserId("bad"), werkzeug.exceptions.NotFound()])
async def test_a_clients_mistake_is_no_error_of_ours(error: Exception, log: Log) -> None:
    wire = await ask(raising(error))
    assert wire.status in {400, 404}
    assert errors(log) == []
    assert log[-1]["outcome"] == "client_error"


async def test_a_foreseen_failure_is_logged_in_one_line_with_what_the_client_does_not_see(log: Log) -> None:
    wire = await ask(raising(ReportUnreadable("cannot be read", internal="/srv/secret.pdf")))
    assert wire.problem["type"] == "urn:sluice:error:report-unreadable"
    assert b"secret" not in wire.body
    (line,) = errors(log)
    assert line["reason"] == "/srv/secret.pdf"
    assert "exc_info" not in line


@pytest.mark.parametrize(
    ("error", "status", "allow"),
    [
        (werkzeug.exceptions.MethodNotAllowed(valid_methods=["HEAD", "GET"]), 405, b"GET, HEAD"),
        (werkzeug.exceptions.BadRequest(), 400, None),
        (werkzeug.exceptions.RequestEntityTooLarge(), 400, None),
        (werkzeug.exceptions.InternalServerError(), 500, None),
    ],
)
async def test_an_error_of_the_routing_is_a_problem_too(error: Exception, status: int, allow: bytes | None) -> None:
    wire = await ask(raising(error))
    assert wire.status == wire.problem["status"] == status
    assert wire.fields.get(b"allow") == allow


async def test_a_group_is_answered_as_the_error_within_it(log: Log) -> None:
    group = BaseExceptionGroup("outer", [ExceptionGroup("inner", [DatabaseUnavailable("away", retry_after=2)])])
    wire = await ask(raising(group))
    assert (wire.status, wire.fields[b"retry-after"]) == (503, b"2")
    assert len(errors(log)) == 1


@pytest.mark.parametrize("swapped", [False, True])
async def test_of_two_errors_the_unexpected_one_is_answered_and_both_are_logged(log: Log, swapped: bool) -> None:
    two: list[Exception] = [ReportNotFound("none"), ValueError("secret")]
    group = ExceptionGroup("both", two[::-1] if swapped else two)
    wire = await ask(raising(group), {"x-request-id": "id-1"})
    assert wire.problem == _UNEXPECTED
    (line,) = errors(log)
    told = _leaves(line["exc_info"])
    assert set(told) == set(two)


async def test_a_real_error_beside_a_cancellation_is_answered_and_logged(autojump_clock: MockClock, log: Log) -> None:
    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("secret")

    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    wire = await ask(application, {"sluice-deadline": "1", "x-request-id": "id-1"})
    assert wire.problem == _UNEXPECTED
    assert [line["exc_info"] is not None for line in errors(log)] == [True]


async def test_what_is_no_exception_of_the_application_ends_the_server() -> None:
    with pytest.raises((SystemExit, BaseExceptionGroup)) as raised:
        await ask(raising(SystemExit(3)))
    assert [type(leaf) for leaf in _leaves(raised.value)] == [SystemExit]


async def test_an_answer_that_fails_after_its_first_byte_gets_no_end(log: Log) -> None:
    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await chunk(send)
        raise ValueError("secret")

    wire = await ask(application)
    assert [message["type"] for message in wire.sent] == ["http.response.start", "http.response.body"]
    assert not wire.complete
    assert len(errors(log)) == 1
    assert (log[-1]["status"], log[-1]["outcome"]) == (200, "error")


async def test_an_error_after_the_answer_is_logged_and_not_answered_again(log: Log) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(scope, receive, send)
        raise ValueError("too late")

    wire = await ask(application)
    assert (len(wire.sent), wire.complete, len(errors(log))) == (2, True, 1)


# -- the access log ----------------------------------------------------------------------------------------------------


async def test_a_request_is_one_line_with_outcome_times_and_bytes(autojump_clock: MockClock, log: Log) -> None:
    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await trio.sleep(2)
        await start(send)
        await chunk(send, b"1234")
        await trio.sleep(3)
        await chunk(send, b"56", last=True)

    await ask(application, {"x-request-id": "id-1"}, path="/a\nb")
    assert log == [
        {
            "event": "request",
            "log_level": "info",
            "request_id": "id-1",
            "method": "GET",
            "path": "/a\nb",
            "route": "unmatched",
            "status": 200,
            "outcome": "ok",
            "ms": 5000.0,
            "first_byte_ms": 2000.0,
            "bytes": 6,
            "client": "192.0.2.1",
        }
    ]


async def test_a_client_without_an_address_is_logged_too(log: Log) -> None:
    await ask(answer, client=None)
    assert log[-1]["client"] is None


@pytest.mark.parametrize("application", [answer, raising(SluiceError("failed"))])
async def test_of_an_answer_to_head_no_bytes_are_counted(application: Handler, log: Log) -> None:
    await ask(application, method="HEAD")
    assert log[-1]["bytes"] == 0


async def test_what_a_request_holds_is_closed_whatever_ends_it(autojump_clock: MockClock) -> None:
    closed: list[str] = []

    def holding(application: Handler) -> Handler:
        async def holder(scope: Scope, receive: Receive, send: Send) -> None:
            current_request.get().resources.callback(closed.append, current_request.get().id)
            await application(scope, receive, send)

        return holder

    for name, application in {"ok": answer, "fails": raising(ValueError()), "late": wait}.items():
        await ask(holding(application), {"x-request-id": name})
    with trio.move_on_after(1):
        await ask(holding(wait), {"x-request-id": "cancelled"}, wire=Wire())
    assert closed == ["ok", "fails", "late", "cancelled"]
