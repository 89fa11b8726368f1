"""The HTTP side of aggregation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import trio

from app.aggregate.results import Settled, as_event, as_line, last_event, problem_event
from app.aggregate.service import Aggregate, Asked, Request
from app.aggregate.upstream import Fields
from app.flow.request import current_request
from app.http.answers import Answer, ShortRoute, Streamed
from app.http.events import STREAM_FIELDS
from app.http.negotiation import preferred
from app.http.queries import only, parse_query

_PREFIX = "/api/aggregate/"
_JSON, _LINES, _EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
_NOT_KEPT = ((b"cache-control", b"no-store"), (b"vary", b"Accept"))
_JSON_FIELDS = ((b"content-type", _JSON.encode()), *_NOT_KEPT)
_LINES_FIELDS = ((b"content-type", _LINES.encode()), *_NOT_KEPT, (b"x-accel-buffering", b"no"))
_EVENTS_FIELDS = (*STREAM_FIELDS, (b"vary", b"Accept"))


def aggregate_route(aggregate: Aggregate, request_deadline: float) -> ShortRoute:
    """``GET /api/aggregate/{view}``. request_deadline: seconds that a request has at most."""

    async def show(method: str, view: str, fields: Mapping[str, str], query: bytes) -> Answer:
        given = parse_query(query)
        parameters = {name: only(given, name) or "" for name in aggregate.parameters(view) if name in given}
        left = trio.current_effective_deadline() - trio.current_time()
        request = Request(view, parameters, _passed_on(), min(request_deadline, left))
        match preferred(fields.get("accept"), (_JSON, _LINES, _EVENTS)):
            case "application/x-ndjson":
                return Answer(200, _LINES_FIELDS, Streamed(_open(aggregate, request, events=False)))
            case "text/event-stream":
                return Answer(200, _EVENTS_FIELDS, Streamed(_open(aggregate, request, events=True)))
            case _:
                return Answer(200, _JSON_FIELDS, await aggregate.answer(request))

    meaning = "What the sources of a view that is configured say, and which of them said nothing."
    return ShortRoute(_PREFIX, "view", meaning, frozenset((b"accept",)), show)


def _passed_on() -> Fields:
    """By which an upstream knows whom it works for."""
    request = current_request.get()
    told = [(b"x-request-id", request.id.encode())]
    if request.traceparent is not None:
        told.append((b"traceparent", request.traceparent.encode()))
    if request.tracestate is not None:
        told.append((b"tracestate", request.tracestate))
    return told


@asynccontextmanager
async def _open(aggregate: Aggregate, request: Request, *, events: bool) -> AsyncGenerator[AsyncIterator[bytes]]:
    async with aggregate.ask(request) as asked, aclosing(_told(asked, events=events)) as told:
        yield told


async def _told(asked: Asked, *, events: bool) -> AsyncGenerator[bytes]:
    """Each source as it settles. Where one fails that the view requires, the answer ends there: if it is the first, it
    is a problem, else it is cut behind that source."""
    settled: list[Settled] = []
    encode = as_event if events else as_line
    async with aclosing(asked.settling()) as settling:
        async for one in settling:
            settled.append(one)
            if one.is_missing:
                failure = asked.failure(settled)
                if len(settled) > 1:
                    yield encode(one) + (problem_event(failure) if events else b"")
                raise failure
            yield encode(one)
    if events:
        yield last_event(settled)
