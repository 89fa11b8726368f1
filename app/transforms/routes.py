"""The HTTP side of transforms."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from quart import Blueprint, Response, request

from app.http.answers import Answer, Fields, Streamed
from app.http.queries import parse_query
from app.transforms.plan import Content, Plan
from app.transforms.service import Outcome, Transforms
from app.transforms.step import Step


def transforms_blueprint(transforms: Transforms) -> Blueprint:
    blueprint = Blueprint("transforms", __name__)

    async def transform() -> Answer:
        """The body run through the steps (step=NAME or step=NAME:ARGUMENTS, repeated, in order), as it arrives."""
        asked = parse_query(request.query_string).get("step", [])
        decoders = transforms.decoders(_codings(request.headers.getlist("Content-Encoding")))
        plan = transforms.plan(asked, Content.of(request.headers.get("Content-Type")))
        outcome = Outcome()
        takes_trailers = "http.response.trailers" in cast("Any", request.scope)["extensions"]
        chunks = transforms.run(request.body, plan, outcome, decoders=decoders, digest=takes_trailers)
        return Answer(200, _content_fields(plan), Streamed(chunks, lambda: _trailers(outcome)))

    # Our application takes an `Answer`, which Quart's types do not know of.
    blueprint.add_url_rule("/api/transform", view_func=cast("Any", transform), methods=["POST"])

    @blueprint.get("/api/transform/steps")
    async def steps() -> Response:  # pyright: ignore[reportUnusedFunction]
        """The steps that there are: arguments, what goes in and comes out, and how much memory each holds."""
        listed = [_described(step) for step in transforms.registry.values()]
        return Response(msgspec.json.encode({"steps": listed}), content_type="application/json")

    return blueprint


def transforming(transforms: Transforms) -> Callable[[Sequence[str], str, AsyncIterable[bytes]], Answer]:
    """Steps over what is stored: the answer of their names, the media type that is stored, and the bytes.

    *Errors*: BadStep.
    """

    def answer(asked: Sequence[str], media_type: str, chunks: AsyncIterable[bytes]) -> Answer:
        plan = transforms.plan(asked, Content.stored(media_type))
        outcome = Outcome()
        return Answer(
            200, _content_fields(plan), Streamed(transforms.run(chunks, plan, outcome), lambda: _trailers(outcome))
        )

    return answer


def _content_fields(plan: Plan) -> Fields:
    """What the answer's fields say of its content."""
    fields = [(b"content-type", plan.gives.media_type.encode("latin-1")), (b"x-content-type-options", b"nosniff")]
    if plan.gives.coding is not None:
        fields.append((b"content-encoding", plan.gives.coding.encode()))
    return fields


def _trailers(outcome: Outcome) -> Fields:
    """RFC 9530 2, and what the steps found. A stream that was cut has none."""
    fields = [(b"sluice-status", b"ok")]
    if outcome.sha256 is not None:
        fields.append((b"content-digest", _digest(outcome.sha256)))
    if outcome.digests:
        fields.append((b"sluice-digest", b", ".join(map(_digest, outcome.digests))))
    return fields


def _digest(digest: bytes) -> bytes:
    return b"sha-256=:" + base64.b64encode(digest) + b":"


def _codings(values: list[str]) -> list[str]:
    return [coding for value in values for coding in value.split(",") if coding.strip()]


def _described(step: Step) -> Mapping[str, object]:
    return {
        "name": step.name,
        "arguments": step.arguments,
        "meaning": step.meaning,
        "takes": [kind.value for kind in sorted(step.takes)],
        "gives": step.gives.value if step.gives else "what it takes",
        "memory": step.memory,
    }
