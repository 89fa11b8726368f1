"""The HTTP side of live topics."""

from __future__ import annotations

from collections.abc import AsyncIterable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import msgspec
from quart import Blueprint, request, websocket

from app.errors import BadRequest, BodyTooLarge, Forbidden, SluiceError
from app.http.answers import Answer, Fields, Streamed
from app.http.events import STREAM_FIELDS, parse_last_event_id
from app.http.fields import fields_of
from app.http.idempotency import Fingerprint, parse_key
from app.http.json_media import check_json_media, not_json
from app.http.queries import only, parse_query
from app.live.events import MAX_DATA, check_topic
from app.live.feed import open_feed
from app.live.keys import Keys
from app.live.origins import Origins
from app.live.service import Live
from app.live.sockets import converse
from app.live.subscription import Position
from app.wire.asgi import send_now_of

_PATH = "/api/live/"
_METHODS = b"GET, HEAD, POST, OPTIONS"
_FIELDS = frozenset((b"content-encoding", b"content-type", b"host", b"idempotency-key", b"last-event-id", b"origin"))
_JSON: Fields = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


def live_blueprint(live: Live, keys: Keys, origins: Origins, request_deadline: float) -> Blueprint:
    """request_deadline: seconds that publishing by WebSocket has, as a request has them."""
    blueprint = Blueprint("live", __name__)

    async def publish(topic: str) -> Answer:
        """Publishes the JSON body to the topic, as an event of the type ?event=TYPE."""
        fields = _fields(request.scope)
        with _readable(origins, fields):
            id = await _publish(live, keys, check_topic(topic), fields)
        return Answer(202, (*_JSON, *origins.fields(fields.get("origin"))), msgspec.json.encode({"id": id}))

    async def subscribe(topic: str) -> Answer:
        """The topic's events as they come, as server-sent events."""
        fields = _fields(request.scope)
        with _readable(origins, fields):
            feed = open_feed(
                live,
                check_topic(topic),
                _position(request.query_string, fields),
                send_now_of(cast("Any", request.scope)),
            )
        return Answer(200, (*STREAM_FIELDS, *origins.fields(fields.get("origin"))), Streamed(feed))

    async def preflight(topic: str) -> Answer:
        """What a page of another site may do here."""
        check_topic(topic)
        allowed = origins.preflight(_fields(request.scope).get("origin"), _METHODS)
        return Answer(204, (*allowed, (b"allow", _METHODS)))

    async def converse_about(topic: str) -> None:
        """The topic's events as they come, over a WebSocket."""
        fields = _fields(websocket.scope)
        if not origins.may_connect(fields.get("origin"), fields.get("host")):
            raise Forbidden("pages of this origin may not open a WebSocket here")
        async with live.subscribe(topic, _position(websocket.query_string, fields)) as subscription:
            socket = cast("Any", websocket)  # of which Quart does not tell all types
            await socket.accept()
            await converse(live, topic, subscription, socket, request_deadline)

    # Our application takes an `Answer`, which Quart's types do not know of.
    for view, method in ((publish, "POST"), (subscribe, "GET"), (preflight, "OPTIONS")):
        blueprint.add_url_rule(
            f"{_PATH}<topic>", view_func=cast("Any", view), methods=[method], provide_automatic_options=False
        )
    blueprint.add_websocket(f"{_PATH}<topic>/ws", view_func=converse_about)
    return blueprint


async def _publish(live: Live, keys: Keys, topic: str, fields: Mapping[str, str]) -> str:
    """The id of the event, or that of the one that the same request has published before."""
    kind = only(parse_query(request.query_string), "event")
    key = parse_key(fields.get("idempotency-key"))
    if not check_json_media(fields, "an event"):
        raise not_json("is missing")
    data = await _data()
    if key is None:
        return str(await live.publish(topic, kind, data))
    route = f"{_PATH}{topic}"
    fingerprint = Fingerprint("POST", route, kind or "")
    fingerprint.feed(data)
    async with keys.claim(route, key, fingerprint.value()) as claim:
        if claim.kept is not None:
            return claim.kept
        id = str(await live.publish(topic, kind, data))
        await claim.keep(id)
        return id


async def _data() -> bytes:
    """The request's body."""
    data = bytearray()
    async for chunk in cast("AsyncIterable[bytes]", request.body):
        data += chunk
        if len(data) > MAX_DATA:
            raise BodyTooLarge(f"an event has at most {MAX_DATA} bytes")
    return bytes(data)


def _fields(scope: Any) -> dict[str, str]:
    return fields_of(scope["headers"], _FIELDS)


def _position(raw_query: bytes, fields: Mapping[str, str]) -> Position:
    query = parse_query(raw_query)
    since = only(query, "since")
    if since not in {None, "beginning"}:
        raise BadRequest("since: beginning is allowed")
    said = fields.get("last-event-id") or only(query, "last_event_id")
    if not said:
        return Position(beginning=since is not None)
    # What cannot be one of our ids is not the same as none: who says so has lost something, and is told.
    after = parse_last_event_id(said.encode("latin-1", "replace")) or said
    return Position(after, beginning=since is not None)


@contextmanager
def _readable(origins: Origins, fields: Mapping[str, str]) -> Generator[None]:
    """What goes wrong can be read by the page that has asked, too."""
    try:
        yield
    except SluiceError as error:
        told = origins.fields(fields.get("origin"))
        error.headers = {**error.headers, **{name.decode(): value.decode("latin-1") for name, value in told}}
        raise
