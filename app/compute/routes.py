"""The HTTP side of computing."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import ExitStack

import msgspec
from quart import Blueprint, Response

from app.compute.later import Later
from app.compute.service import Compute, Limits, Prepared
from app.http.answers import Answer, Posted, ShortPost
from app.http.deadlines import parse_deadline
from app.http.idempotency import Fingerprint, parse_key
from app.http.json_media import check_json_media, not_json
from app.http.prefer import parse_prefer

_ROUTE = "/api/process"
_JSON = ((b"content-type", b"application/json"),)
_FIELDS = frozenset(
    (
        b"content-encoding",
        b"content-type",
        b"idempotency-key",
        b"prefer",
        b"sluice-queue-deadline",
        b"sluice-run-deadline",
    )
)


def process_route(compute: Compute, later: Later) -> ShortPost:
    """``POST /api/process``. later: what outlives its request: jobs, and the answers that are kept by an idempotency
    key."""

    async def process(request: Posted) -> Answer:
        fields = request.fields
        key = parse_key(fields.get("idempotency-key"))
        fingerprint = None if key is None else Fingerprint("POST", _ROUTE)
        limits, body = _limits(request), _body(request)
        with ExitStack() as resources:
            watch = fingerprint.feed if fingerprint else None
            prepared = await compute.receive(body, limits, resources, watch, request.length)
            if key is None or fingerprint is None:
                return await answer(prepared, fields, resources)
            async with later.claim(_ROUTE, key, fingerprint.value()) as claim:
                if claim.kept is not None:
                    return claim.kept
                made = await answer(prepared, fields, resources)
                if made.status < 400:  # what has failed may be tried again
                    await claim.keep(made)
                return made

    async def answer(prepared: Prepared, fields: Mapping[str, str], resources: ExitStack) -> Answer:
        if "prefer" in fields:
            preferences = parse_prefer(fields["prefer"])
            if preferences.respond_async or preferences.wait is not None:
                return await later.begin(prepared, preferences, resources)
        return Answer(200, _JSON, b'{"result":%b}' % await compute.compute(prepared.call))

    meaning = "Runs a task and gives its result; or, with Prefer: respond-async or wait=N, a job that does."
    return ShortPost(_ROUTE, meaning, _FIELDS, process)


def compute_blueprint(compute: Compute) -> Blueprint:
    blueprint = Blueprint("compute", __name__)
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


def _limits(request: Posted) -> Limits:
    def seconds(name: str) -> float:
        value = request.fields.get(name.lower())
        return math.inf if value is None else parse_deadline(value.encode("latin-1"), name) or math.inf

    return Limits(request.client, seconds("Sluice-Queue-Deadline"), seconds("Sluice-Run-Deadline"))


def _body(request: Posted) -> AsyncIterable[bytes]:
    """What is to be JSON. *Errors*: UnsupportedMediaType, UnsupportedContentEncoding where it says that it is not."""
    is_json = check_json_media(request.fields, "a request for a task")
    return request.body if is_json else _Nothing(request.body)


class _Nothing:
    """A body that may not be there, as nobody has said what it is."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for _ in self._chunks:
            raise not_json("is missing")
        return
        yield b""
