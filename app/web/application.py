"""The Quart-Trio application, without what Sluice does elsewhere: error handling, time-outs, tasks of its own."""

from __future__ import annotations

from typing import Any, NoReturn

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Blueprint
from quart.typing import ResponseTypes
from quart.wrappers import Request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.routing import BaseConverter

from app.errors import NotFound


class Connection(TrioASGIHTTPConnection):
    """One request: no nursery, no queue and no time limit of its own; `app.web.boundary` has them."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if self.scope["path"].startswith("//"):  # which Werkzeug would take for "/"
            raise NotFound(f"there is nothing at {self.scope['path']}")
        request = self._create_request_from_scope(send)
        response = await self.app.handle_request(request)
        await self._send_response(send, response)


class Application(QuartTrio):
    """Routes. Every exception, routing's own included, leaves it as it was raised.

    (Quart-Trio loses a real error that comes together with a cancellation, and swallows what its handlers raise.)
    """

    asgi_http_class = Connection

    async def handle_request(self, request: Request) -> ResponseTypes:
        async with self.request_context(request) as context:
            return await self.full_dispatch_request(context)

    async def handle_user_exception(self, *arguments: Any) -> NoReturn:  # type: ignore[override] # Quart 0.22 and 0.23 differ
        raise arguments[-1]


class _AnyText(BaseConverter):
    """The rest of a path, whatever is in it: what is wrong with it is for the route to say, not for a 404."""

    regex = r"(?s:.+)"
    part_isolating = False


def build_application(*blueprints: Blueprint) -> Application:
    application = Application("sluice", static_folder=None)
    # Otherwise "//" is answered by a redirect to "/", in HTML.
    application.url_map.merge_slashes = False
    application.url_map.converters["any_text"] = _AnyText
    for blueprint in blueprints:
        application.register_blueprint(blueprint)
    return application
