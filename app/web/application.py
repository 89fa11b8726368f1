"""The application: the routes that go through Quart, and in front of it the short ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from quart import Blueprint

from app.http.answers import ShortPost, ShortRoute
from app.settings import ServerSettings
from app.web.lean import LeanQuart
from app.web.short_way import ShortWay, add_rules
from app.wire.asgi import AsgiApp


def build_application(
    blueprints: Sequence[Blueprint],
    short_routes: Sequence[ShortRoute],
    settings: ServerSettings,
    posts: Sequence[ShortPost] = (),
) -> AsgiApp:
    """The application of these routes. A route that reads its body whole reads up to ``settings.max_json``."""
    application = LeanQuart("sluice", static_folder=None)
    application.config["MAX_CONTENT_LENGTH"] = settings.max_json
    # The boundary's: the request's deadline, and the stall limit.
    application.config["BODY_TIMEOUT"] = application.config["RESPONSE_TIMEOUT"] = None
    # Otherwise "//" is answered by a redirect to "/", in HTML.
    application.url_map.merge_slashes = False
    for blueprint in blueprints:
        application.register_blueprint(blueprint)
    add_rules(application, short_routes, posts)
    # Quart's own types of scope and events are narrower than ASGI's.
    # Methods are called in half the time that objects with such a method are.
    return ShortWay(cast("AsgiApp", application.__call__), short_routes, posts, settings.max_json).__call__
