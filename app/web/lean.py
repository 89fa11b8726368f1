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

import quart.ctx
import quart.globals
from blinker import Signal
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    request_finished,
    request_started,
    request_tearing_down,
)
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
from app.web.index import template_of
from app.web.pulled import PulledBody, PulledMessages, PulledRequest, PulledWebsocket
from app.web.short_way import send_answer
from app.wire.asgi import ROUTE, WHOLE, Receive, Scope, Send

# Paths and methods whose routes are remembered, requests whose routing is, names of fields; how long those may be.
_MOST_FOUND = 1024
_LONGEST_FOUND = 512
# As Werkzeug writes them.
_CONTENT_TYPE = "text/html; charset=utf-8"
# Whether contexts are those of Quart 0.23, where the request is the application's; others Quart enters in its own way.
_IS_KNOWN = hasattr(quart.ctx.AppContext, "match_request") and hasattr(quart.globals, "_cv_app")


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
            if len(headers) == 1:  # its type, which is that of many others
                headers = cast("Any", tuple(headers))
            message = {"type": WHOLE, "status": response.status_code, "headers": headers, "body": body.data}
            await cast("Send", send)(message)
        else:
            await self._send_response(send, response)

    def _request(self) -> PulledRequest:
        """(Quart's own way checks each field once more, one by one.)"""
        scope = cast("Any", self.scope)
        headers = Headers()
        headers._list = [(_title_of(name), value.decode("latin-1")) for name, value in scope["headers"]]
        headers._list.insert(0, ("Remote-Addr", (scope.get("client") or ("<local>",))[0]))
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

    def __init__(
        self,
        response: Any = None,
        status: int | None = None,
        headers: Any = None,
        mimetype: str | None = None,
        content_type: str | None = None,
    ) -> None:
        if not (headers or mimetype or content_type):
            content_type = _CONTENT_TYPE  # which Quart would look for first, and then put together
        cast("Any", super()).__init__(response, status, headers, mimetype, content_type)


class _NoSessions(SessionInterface):
    """Nothing is kept in cookies."""

    _session = NullSession()

    async def open_session(self, *_: Any) -> NullSession:  # type: ignore[override] # its parameters differ by version
        return self._session


class _Adapter(MapAdapter):
    """Routing of one request; what a path and a method lead to does not change once the routes are there."""

    found: dict[tuple[str, str, bool], Any]  # shared by all of an application

    def match(self, *arguments: Any, **options: Any) -> Any:
        if arguments or options != {"return_rule": True}:
            return super().match(*arguments, **options)
        key = (self.path_info, self.default_method, self.websocket)
        found = self.found.get(key)
        if found is None:
            found = super().match(return_rule=True)
            if len(self.found) >= _MOST_FOUND:
                self.found.clear()
            if len(self.path_info) <= _LONGEST_FOUND:
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

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        """(Quart's own way goes through two more coroutines.)"""
        if scope["type"] == "http":
            return self.asgi_http_class(self, scope)(receive, send)
        return self.asgi_app(scope, receive, send)

    def ensure_async(self, func: Any) -> Any:
        return func if _is_async(func) else super().ensure_async(func)

    def create_url_adapter(self, request: Any) -> MapAdapter | None:
        """Without regard to the host: no route depends on it."""
        if request is None:
            return super().create_url_adapter(request)
        host = request.headers.get("Host", "localhost")
        key = (host, request.root_path, request.scheme, request.path, request.method, request.query_string)
        adapter = self._adapters.get(key)
        if adapter is None:
            query = request.query_string.decode("latin-1")
            adapter = _Adapter(self.url_map, host, request.root_path, "", request.scheme, *key[3:5], query)
            adapter.found = self._found
            if len(self._adapters) >= _MOST_FOUND:
                self._adapters.clear()
            if sum(map(len, key)) <= _LONGEST_FOUND:
                self._adapters[key] = adapter
        return adapter

    @cached_property
    def _adapters(self) -> dict[tuple[Any, ...], _Adapter]:
        return {}

    @cached_property
    def _found(self) -> dict[tuple[str, str, bool], Any]:
        return {}

    async def handle_request(self, request: Request) -> ResponseTypes:
        context: Any = self.request_context(request)
        if not _IS_KNOWN or self._is_watched():
            async with context:
                _say_route(request)
                return await self.full_dispatch_request(context)
        # As `AppContext.push` and `pop` do, but for telling nobody.
        context._session = self.session_interface._session
        context._push_count = 1
        context._cv_token = token = quart.globals._cv_app.set(context)
        try:
            context.match_request()
            _say_route(request)
            return await self.full_dispatch_request(context)
        finally:
            await request.close()
            quart.globals._cv_app.reset(token)
            context._cv_token = None

    def _is_watched(self) -> bool:
        """Whether anybody wants to know of contexts."""
        signals = (appcontext_pushed, appcontext_popped, appcontext_tearing_down)
        return (
            _wanted(self.teardown_request_funcs, request_tearing_down)
            or bool(self.teardown_appcontext_funcs)
            or any(signal.receivers for signal in signals)
        )

    async def handle_websocket(self, websocket: Websocket) -> ResponseTypes | None:
        async with self.websocket_context(websocket) as context:
            _say_route(websocket)
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


def _say_route(request: Request | Websocket) -> None:
    """To whoever is around us, as a template."""
    if request.url_rule is not None:
        cast("Scope", request.scope)[ROUTE] = template_of(request.url_rule.rule)


def _title_of(name: bytes) -> str:
    return _short_title_of(name) if len(name) <= _LONGEST_FOUND else name.decode("latin-1").title()


@lru_cache(maxsize=1024)
def _short_title_of(name: bytes) -> str:
    return name.decode("latin-1").title()


_is_async = lru_cache(maxsize=1024)(inspect.iscoroutinefunction)
