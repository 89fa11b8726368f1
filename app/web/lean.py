"""Quart-Trio without what Sluice does elsewhere, and without what nobody asked for.

Time limits, tasks, error handling and the log are `app.web.boundary`'s. What Quart does around each request for those
who want to be called (functions before and after, signals) is left out where nobody does, and what it works out anew
for each request although it does not change is remembered.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, NoReturn, cast

from blinker import Signal
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import appcontext_tearing_down, request_finished, request_started, request_tearing_down
from quart.sessions import NullSession, SessionInterface
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart.wrappers import Request, Response, Websocket
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from werkzeug.datastructures import Headers
from werkzeug.routing import MapAdapter

from app.errors import NotFound
from app.http.answers import Answer
from app.web.pulled import PulledBody, PulledMessages, PulledRequest, PulledWebsocket
from app.web.short_way import send_answer
from app.wire.asgi import WHOLE, Receive, Scope, Send

# Paths and methods whose routes are remembered.
_MOST_FOUND = 1024


class Connection(TrioASGIHTTPConnection):
    """One request: no nursery, no queue and no time limit of its own."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if self.scope["path"].startswith("//"):  # which Werkzeug would take for "/"
            raise NotFound(f"there is nothing at {self.scope['path']}")
        request = self._request()
        most = cast("int", self.app.config["MAX_CONTENT_LENGTH"])
        request.body = cast("Any", PulledBody(cast("Receive", receive), most))
        response = await self.app.handle_request(request)
        if isinstance(response, Answer):
            await send_answer(cast("Scope", self.scope), cast("Send", send), response)
            return
        body = getattr(response, "response", None)
        if isinstance(body, DataBody):
            headers = encode_headers(response.headers)
            message = {"type": WHOLE, "status": response.status_code, "headers": headers, "body": body.data}
            await cast("Send", send)(message)
        else:
            await self._send_response(send, response)

    def _request(self) -> PulledRequest:
        """(Quart's own way checks each field once more, one by one.)"""
        scope = cast("Any", self.scope)
        headers = Headers()
        headers._list = [
            ("Remote-Addr", (scope.get("client") or ("<local>",))[0]),
            *((name.decode("latin-1").title(), value.decode("latin-1")) for name, value in scope["headers"]),
        ]
        return PulledRequest(
            scope["method"],
            scope["scheme"],
            scope["path"],
            scope["query_string"],
            headers,
            scope.get("root_path", ""),
            scope["http_version"],
            send_push_promise=_no_push,
            scope=scope,
        )


class SocketConnection(TrioASGIWebsocketConnection):
    """One WebSocket: likewise."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        websocket = self._create_websocket_from_scope(send)
        websocket.buffer = cast("Any", PulledMessages(cast("Receive", receive)))
        await self.app.handle_websocket(websocket)
        if not self._closed:
            await send({"type": "websocket.close", "code": 1000, "reason": None})


class LeanResponse(Response):
    """Its length is known to whoever sends it, and said there."""

    automatically_set_content_length = False


class _NoSessions(SessionInterface):
    """Nothing is kept in cookies."""

    _session = NullSession()

    async def open_session(self, *_: Any) -> NullSession:  # type: ignore[override] # its parameters differ by version
        return self._session


class _Adapter(MapAdapter):
    """Routing of one request; what a path and a method lead to does not change once the routes are there."""

    found: dict[tuple[str, str, bool], Any]

    def match(self, *arguments: Any, **options: Any) -> Any:
        if arguments or options != {"return_rule": True}:
            return super().match(*arguments, **options)
        key = (self.path_info, self.default_method, self.websocket)
        found = self.found.get(key)
        if found is None:
            found = super().match(return_rule=True)
            if len(self.found) >= _MOST_FOUND:
                self.found.clear()
            self.found[key] = found
        return found[0], dict(found[1])


class LeanQuart(QuartTrio):
    """Routes. Every exception, routing's own included, leaves it as it was raised.

    (Quart-Trio loses a real error that comes together with a cancellation, and swallows what its handlers raise.)
    """

    asgi_http_class = Connection
    asgi_websocket_class = SocketConnection
    request_class = PulledRequest
    websocket_class = PulledWebsocket
    response_class = LeanResponse
    session_interface = _NoSessions()

    def ensure_async(self, func: Any) -> Any:
        return func if _is_async(func) else super().ensure_async(func)

    def create_url_adapter(self, request: Any) -> MapAdapter | None:
        """Without regard to the host: no route depends on it."""
        if request is None:
            return super().create_url_adapter(request)
        host = request.headers.get("Host", "localhost")
        root, scheme, query = request.root_path, request.scheme, request.query_string.decode("latin-1")
        adapter = _Adapter(self.url_map, host, root, "", scheme, request.path, request.method, query)
        adapter.found = self._found
        return adapter

    @cached_property
    def _found(self) -> dict[tuple[str, str, bool], Any]:
        return {}

    async def handle_request(self, request: Request) -> ResponseTypes:
        async with self.request_context(request) as context:
            return await self.full_dispatch_request(context)

    async def handle_websocket(self, websocket: Websocket) -> ResponseTypes | None:
        async with self.websocket_context(websocket) as context:
            return await self.full_dispatch_websocket(context)

    async def handle_user_exception(self, *arguments: Any) -> NoReturn:  # type: ignore[override] # likewise
        raise arguments[-1]

    # The context that Quart 0.23 hands over comes first; in 0.22 it is the one of the request.

    async def full_dispatch_request(self, *context: Any) -> ResponseTypes:  # type: ignore[override]
        if _wanted(self.before_request_funcs, request_started):
            return await super().full_dispatch_request(*context)
        return await self.finalize_request(*context, await self.dispatch_request(*context))

    async def finalize_request(self, *arguments: Any, **options: Any) -> ResponseTypes:
        if isinstance(arguments[-1], Answer):  # which needs nothing of what Quart does with other results
            return cast("ResponseTypes", arguments[-1])
        if request_finished.receivers:
            return await super().finalize_request(*arguments, **options)
        *context, result = arguments
        process_response = cast("Any", self.process_response)
        if context:
            return await process_response(*context, await self.make_response(result))
        return await process_response(await self.make_response(result))

    async def do_teardown_request(self, *arguments: Any) -> None:  # type: ignore[override]
        if _wanted(self.teardown_request_funcs, request_tearing_down):
            await super().do_teardown_request(*arguments)

    async def do_teardown_appcontext(self, *arguments: Any) -> None:  # type: ignore[override]
        if self.teardown_appcontext_funcs or appcontext_tearing_down.receivers:
            await super().do_teardown_appcontext(*arguments)


def _wanted(functions: Mapping[Any, Any], signal: Signal) -> bool:
    """Whether anybody is to be called."""
    return bool(signal.receivers) or any(functions.values())


async def _no_push(path: str, headers: Headers) -> None:
    """Browsers have given it up."""


_is_async = lru_cache(maxsize=1024)(inspect.iscoroutinefunction)
