"""The HTTP side of computing."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, cast

import msgspec
from quart import Blueprint, Response, request

from app.compute.later import Later
from app.compute.service import Compute, Limits, Prepared
from app.errors import UnsupportedContentEncoding, UnsupportedMediaType
from app.http.answers import Answer
from app.http.deadlines import parse_deadline
from app.http.fields import fields_of
from app.http.idempotency import Fingerprint, parse_key
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
_IS_JSON = re.compile(r"application/json|[^/\s,]+/[^/\s,]+\+json")
_CHARSETS = {"utf-8", "utf8", "us-ascii"}


def compute_blueprint(compute: Compute, later: Later) -> Blueprint:
    """later: what outlives its request: jobs, and the answers that are kept by an idempotency key."""
    blueprint = Blueprint("compute", __name__)

    async def process() -> Answer:
        """Runs a task and gives its result; or, with Prefer: respond-async or wait=N, a job that does."""
        scope: Any = request.scope
        fields = fields_of(scope["headers"], _FIELDS)
        key = parse_key(fields.get("idempotency-key"))
        fingerprint = None if key is None else Fingerprint("POST", _ROUTE)
        limits, body = _limits(scope["client"], fields), _body(request.body, fields)
        with ExitStack() as resources:
            watch = fingerprint.feed if fingerprint else None
            prepared = await compute.receive(body, limits, resources, watch, request.content_length)
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
        preferences = parse_prefer(fields.get("prefer"))
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


def _limits(client: tuple[str, int] | None, fields: Mapping[str, str]) -> Limits:
    def seconds(name: str) -> float:
        value = fields.get(name.lower())
        return math.inf if value is None else parse_deadline(value.encode("latin-1"), name) or math.inf

    return Limits(client[0] if client else "", seconds("Sluice-Queue-Deadline"), seconds("Sluice-Run-Deadline"))


def _body(chunks: AsyncIterable[bytes], fields: Mapping[str, str]) -> AsyncIterable[bytes]:
    """What is to be JSON. *Errors*: UnsupportedMediaType, UnsupportedContentEncoding where it says that it is not."""
    if fields.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedContentEncoding(
            "a request for a task comes without Content-Encoding", headers={"accept-encoding": "identity"}
        )
    said = fields.get("content-type")
    if said is None:
        return _Nothing(chunks)
    if not _is_json(said):
        raise _not_json(f"is {said!r}")
    return chunks


@lru_cache(maxsize=64)
def _is_json(said: str) -> bool:
    essence, *parameters = (part.strip().lower() for part in said.split(";"))
    charsets = {value.strip(' "') for name, _, value in (one.partition("=") for one in parameters) if name == "charset"}
    return bool(_IS_JSON.fullmatch(essence)) and charsets <= _CHARSETS


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
