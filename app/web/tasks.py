"""``/debug/tasks``: what the server is at, as a tree; for who is on its machine."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Any

import msgspec
from quart import Blueprint, Response, request
from werkzeug.datastructures import Headers

from app import __version__
from app.errors import Forbidden
from app.telemetry.nodes import as_text
from app.telemetry.tasks import task_tree
from app.telemetry.vocabulary import Vocabulary

# By these a proxy says that it asks for somebody else. They are believed in so far as they forbid something.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_PORT = re.compile(r":[0-9]*$")
_JSON, _TEXT = "application/json", "text/plain"


def tasks_blueprint(vocabulary: Vocabulary) -> Blueprint:
    """``GET /debug/tasks``; of several worker processes, the one that answers."""
    blueprint = Blueprint("tasks", __name__)

    @blueprint.get("/debug/tasks")
    async def tasks() -> Response:  # pyright: ignore[reportUnusedFunction]
        """What runs, and what each task waits on; only for who is on this machine."""
        if (reason := refusal(request.scope, request.headers)) is not None:
            raise Forbidden(f"the tree of tasks is shown {reason}")
        tree = await task_tree(f"sluice {__version__} pid {os.getpid()}", vocabulary)
        if request.accept_mimetypes.best_match([_TEXT, _JSON], _TEXT) == _JSON:
            response = Response(msgspec.json.encode(tree), content_type=_JSON)
        else:
            response = Response(as_text(tree), content_type=f"{_TEXT}; charset=utf-8")
        response.headers["vary"] = "Accept"
        response.headers["cache-control"] = "no-store"
        return response

    return blueprint


def refusal(scope: Any, fields: Headers) -> str | None:
    """Why not, for whom the connection, or what came by it, shows to be elsewhere; None for who is on this machine.

    ``Host`` is looked at because of browsers, which let any page ask for a name that leads to this machine.
    """
    if scope.get("client") is None and scope.get("server") is None:
        return None  # a socket of the file system, which has its own permissions
    if not _is_loopback((scope.get("client") or ("",))[0]):
        return "on the loopback interface only"
    if any(name in fields for name in _FORWARDED):
        return "to nobody who comes by a proxy"
    host = _PORT.sub("", fields.get("host", "")).strip("[]").lower()
    if host not in {"", "localhost"} and not _is_address(host):
        return "under an address, or as localhost, only"
    return None


def _is_loopback(text: str) -> bool:
    if not _is_address(text):
        return False
    address = ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
