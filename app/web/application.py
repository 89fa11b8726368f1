"""The Quart-Trio application, without what Sluice does elsewhere: error handling, time-outs, queues, own tasks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Blueprint
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart.wrappers import Request, Websocket
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from werkzeug.routing import MapAdapter

from app.errors import NotFound
from app.http.answers import ShortRoute
from app.settings import ServerSettings
from app.web.pulled import PulledBody, PulledMessages, PulledRequest, PulledWebsocket
from app.web.short_way import ShortWay, add_rules
from app.wire.asgi import WHOLE, AsgiApp, Receive, Send


class Connection(TrioASGIHTTPConnection):
    """One request: no nursery, no queue and no time limit of its own; `app.web.boundary` has them."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if self.scope["path"].startswith("//"):  # which Werkzeug would take for "/"
            raise NotFound(f"there is nothing at {self.scope['path']}")
        request = self._create_request_from_scope(send)
        request.body = cast(
            "Any", PulledBody(cast("Receive", receive), cast("int", self.app.config["MAX_CONTENT_LENGTH"]))
        )
        response = await self.app.handle_request(request)
        body = getattr(response, "response", None)
        if isinstance(body, DataBody):
            headers = encode_headers(response.headers)
            message = {"type": WHOLE, "status": response.status_code, "headers": headers, "body": body.data}
            await cast("Send", send)(message)
        else:
            await self._send_response(send, response)


class SocketConnection(TrioASGIWebsocketConnection):
    """One WebSocket: likewise."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        websocket = self._create_websocket_from_scope(send)
        websocket.buffer = cast("Any", PulledMessages(cast("Receive", receive)))
        await self.app.handle_websocket(websocket)
        if not self._closed:
            await send({"type": "websocket.close", "code": 1000, "reason": None})


class Application(QuartTrio):
    """Routes. Every exception, routing's own included, leaves it as it was raised.

    (Quart-Trio loses a real error that comes together with a cancellation, and swallows what its handlers raise.)
    """

    asgi_http_class = Connection
    asgi_websocket_class = SocketConnection
    request_class = PulledRequest
    websocket_class = PulledWebsocket

    def ensure_async(self, func: Any) -> Any:
        """Which kind a function is does not change, and Quart asks several times for each request."""
        return func if _is_async(func) else super().ensure_async(func)

    def create_url_adapter(self, request: Any) -> MapAdapter | None:
        """Without regard to the host: no route depends on it. (Quart encodes, splits and compares it each time.)"""
        if request is None:
            return super().create_url_adapter(request)
        host = request.headers.get("Host", "localhost")
        root, scheme, query = request.root_path, request.scheme, request.query_string.decode("latin-1")
        return MapAdapter(self.url_map, host, root, "", scheme, request.path, request.method, query)

    async def handle_request(self, request: Request) -> ResponseTypes:
        async with self.request_context(request) as context:
            return await self.full_dispatch_request(context)

    async def handle_websocket(self, websocket: Websocket) -> ResponseTypes | None:
        async with self.websocket_context(websocket) as context:
            return await self.full_dispatch_websocket(context)

    async def handle_user_exception(self, *arguments: Any) -> NoReturn:  # type: ignore[override] # Quart 0.22 and 0.23 differ
        raise arguments[-1]


_is_async = lru_cache(maxsize=1024)(inspect.iscoroutinefunction)


def build_application(
    blueprints: Sequence[Blueprint], short_routes: Sequence[ShortRoute], settings: ServerSettings
) -> AsgiApp:
    """The application of these routes. A route that reads its body whole reads up to ``settings.max_json``."""
    application = Application("sluice", static_folder=None)
    application.config["MAX_CONTENT_LENGTH"] = settings.max_json
    application.config["BODY_TIMEOUT"] = None  # the request's deadline and the stall limit end it
    # Otherwise "//" is answered by a redirect to "/", in HTML.
    application.url_map.merge_slashes = False
    for blueprint in blueprints:
        application.register_blueprint(blueprint)
    add_rules(application, short_routes)
    # Quart's own types of scope and events are narrower than ASGI's.
    return ShortWay(cast("AsgiApp", application), short_routes)
