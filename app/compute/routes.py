"""The HTTP side of computing."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import ExitStack
from typing import Any, cast

import msgspec
from quart import Blueprint, Response, request

from app.compute.later import Later
from app.compute.service import Compute, Limits, Prepared
from app.errors import UnsupportedContentEncoding, UnsupportedMediaType
from app.http.answers import Answer
from app.http.deadlines import parse_deadline
from app.http.idempotency import Fingerprint, parse_key
from app.http.prefer import parse_prefer

_ROUTE = "/api/process"
_JSON = ((b"content-type", b"application/json"),)
_IS_JSON = re.compile(r"application/json|[^/\s,]+/[^/\s,]+\+json")
_CHARSETS = {"utf-8", "utf8", "us-ascii"}


def compute_blueprint(compute: Compute, later: Later) -> Blueprint:
    """later: what outlives its request: jobs, and the answers that are kept by an idempotency key."""
    blueprint = Blueprint("compute", __name__)

    async def process() -> Answer:
        """Runs a task and gives its result; or, with Prefer: respond-async or wait=N, a job that does."""
        key = parse_key(_field("Idempotency-Key"))
        fingerprint = None if key is None else Fingerprint("POST", _ROUTE)
        limits, body = _limits(), _body()
        with ExitStack() as resources:
            watch = fingerprint.feed if fingerprint else None
            prepared = await compute.receive(body, limits, resources, watch, request.content_length)
            if key is None or fingerprint is None:
                return await answer(prepared, resources)
            async with later.claim(_ROUTE, key, fingerprint.value()) as claim:
                if claim.kept is not None:
                    return claim.kept
                made = await answer(prepared, resources)
                if made.status < 400:  # what has failed may be tried again
                    await claim.keep(made)
                return made

    async def answer(prepared: Prepared, resources: ExitStack) -> Answer:
        preferences = parse_prefer(_field("Prefer"))
        if preferences.respond_async or preferences.wait is not None:
            return await later.begin(prepared, preferences, resources)
        return Answer(200, _JSON, b'{"result":%b}' % await compute.compute(prepared.call))

    # Our application takes an `Answer`, which Quart's types do not know of.
    blueprint.add_url_rule(_ROUTE, view_func=cast("Any", process), methods=["POST"])

    listed = [
        {"name": task.name, "meaning": task.meaning, "retry": task.retry, "arguments": task.schema()}
        for task in compute.tasks.values()
    ]
    tasks_listed = msgspec.json.encode({"tasks": listed})

    @blueprint.get("/api/tasks")
    async def tasks() -> Response:  # pyright: ignore[reportUnusedFunction]
        """The tasks that there are, and what arguments each takes."""
        return Response(tasks_listed, content_type="application/json")

    return blueprint


def _limits() -> Limits:
    client = request.scope["client"]
    return Limits(client[0] if client else "", _seconds("Sluice-Queue-Deadline"), _seconds("Sluice-Run-Deadline"))


def _seconds(name: str) -> float:
    value = _field(name)
    return math.inf if value is None else parse_deadline(value.encode("latin-1", "replace"), name) or math.inf


def _field(name: str) -> str | None:
    """Several of one name are joined by commas (RFC 9110 5.3)."""
    values = request.headers.getlist(name)
    return ", ".join(values) if values else None


def _body() -> AsyncIterable[bytes]:
    """What is to be JSON. *Errors*: UnsupportedMediaType, UnsupportedContentEncoding where it says that it is not."""
    if (_field("Content-Encoding") or "identity").strip().lower() != "identity":
        raise UnsupportedContentEncoding(
            "a request for a task comes without Content-Encoding", headers={"accept-encoding": "identity"}
        )
    said = _field("Content-Type")
    if said is None:
        return _Nothing(request.body)
    essence, *parameters = (part.strip().lower() for part in said.split(";"))
    charsets = {value.strip(' "') for name, _, value in (one.partition("=") for one in parameters) if name == "charset"}
    if not _IS_JSON.fullmatch(essence) or not charsets <= _CHARSETS:
        raise _not_json(f"is {said!r}")
    return request.body


def _not_json(what: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"Content-Type: {what}, and must be application/json, in UTF-8", headers={"accept": "application/json"}
    )


class _Nothing:
    """A body that may not be there, as nobody has said what it is."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for _ in self._chunks:
            raise _not_json("is missing")
        return
        yield b""
