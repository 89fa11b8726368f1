"""What the span of a request says, whatever it was and however it ended."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import DatabaseUnavailable, NotFound, SluiceError
from app.flow.spans import ERROR_TYPE, Span, current, recording
from app.wire.asgi import ROUTE, Receive, Scope, Send
from tests.flow.test_spans import Kept
from tests.web.wire import Handler, Wire, answer, ask, raising, start


async def span_of(application: Handler, **more: Any) -> Span:
    """Of one request to it."""
    kept = Kept()
    with recording(kept):
        await ask(application, **more)
        assert current() is None
    (span,) = kept.spans
    return span


async def test_it_is_named_by_its_method_and_its_route() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = "/thing/{id}"
        assert current() is not None
        await answer(scope, receive, send)

    span = await span_of(application)
    assert (span.name, span.kind, span.is_error) == ("GET /thing/{id}", "server", False)
    assert span.attributes["http.route"] == "/thing/{id}"
    assert span.attributes["url.path"] == "/thing"


async def test_a_method_that_nobody_knows_is_another() -> None:
    span = await span_of(answer, method="BREW")
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")


async def test_a_path_is_told_up_to_a_length() -> None:
    span = await span_of(answer, path="/" + "x" * 10_000)
    assert len(str(span.attributes["url.path"])) == 512


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (NotFound("x"), "client_error", None),
        (DatabaseUnavailable("x"), "error", "database-unavailable"),
        (ZeroDivisionError(), "error", SluiceError.name),
    ],
)
async def test_an_error_of_ours_is_one_of_the_span(error: Exception, outcome: str, kind: str | None) -> None:
    span = await span_of(raising(error))
    assert span.attributes["sluice.outcome"] == outcome
    assert (span.attributes.get(ERROR_TYPE), span.is_error) == (kind, kind is not None)


async def test_a_status_of_an_error_tells_where_nothing_else_does() -> None:
    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 502)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    span = await span_of(application)
    assert (span.attributes[ERROR_TYPE], span.attributes["http.response.status_code"]) == ("502", 502)


async def test_an_answer_bears_the_span_that_it_is_of() -> None:
    wire, kept = Wire(), Kept()
    with recording(kept):
        await ask(answer, wire=wire)
    assert wire.fields[b"traceparent"].decode() == kept.spans[0].traceparent
