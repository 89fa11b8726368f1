"""``/``: what this is, and its routes, read off the application itself."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from quart import Blueprint, Quart, Response, current_app, request

from app import __doc__ as summary
from app import __version__

# What the examples fill in for the parameters of a route; there is a job for whoever begins one, and a view for
# whoever configures one.
_EXAMPLES = {"user_id": "test-user", "job_id": "ID", "view": "VIEW", "topic": "news"}
# What the commands of routes that change something add, by path or method.
_OPTIONS = {
    "/api/process": """-H 'Content-Type: application/json' -d '{"task": "sum-sqrt"}' """,
    "/api/transform": "--data-binary 'hello' ",
    "POST /api/live/news": """-H 'Content-Type: application/json' -d '{"hello": "world"}' """,
    "GET /api/live/news": "-N ",
    "GET /api/live/news/ws": "-N -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' "
    "-H 'Sec-WebSocket-Key: c2x1aWNlLXNsdWljZS1zbA==' ",
    "DELETE": "-X DELETE ",
    "PUT": "-X PUT -H 'Content-Type: text/plain' --data-binary 'a report' ",
}
_QUOTED = {"/api/transform": "'{}?step=upper'"}
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
_HIDDEN_METHODS = {"HEAD", "OPTIONS"}


@dataclass(frozen=True)
class Listed:
    """One route, as it is shown: its path as a template, and a command that calls it."""

    methods: str
    path: str
    meaning: str
    command: str


def index_blueprint() -> Blueprint:
    blueprint = Blueprint("index", __name__)

    @blueprint.get("/")
    async def index() -> Response:  # pyright: ignore[reportUnusedFunction]
        """This page."""
        routes = list(list_routes(current_app, f"{request.scheme}://{_host()}"))
        if request.accept_mimetypes.best_match(["text/plain", "text/html"], "text/plain") == "text/html":
            response = Response(_as_html(routes), content_type="text/html; charset=utf-8")
            response.headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'"
        else:
            response = Response(_as_text(routes), content_type="text/plain; charset=utf-8")
        response.headers["vary"] = "Accept"
        return response

    return blueprint


def _host() -> str:
    """Where the client found us; it goes into commands that people paste into a shell, so it must be a host."""
    if _HOST.fullmatch(request.host):
        return request.host
    name, port = request.scope["server"] or ("127.0.0.1", None)
    return f"{name}:{port}" if port else name


def list_routes(application: Quart, base: str) -> Iterator[Listed]:
    """The routes of ``application`` by path; ``base`` is the address that the commands call."""
    rules = application.url_map.iter_rules()
    for rule in sorted(rules, key=lambda rule: (rule.rule, "GET" not in (rule.methods or ()))):
        view = application.view_functions[rule.endpoint]
        path = _PARAMETER.sub(lambda match: _EXAMPLES.get(match[1], match[1]), rule.rule)
        methods = " ".join(sorted((rule.methods or set[str]()) - _HIDDEN_METHODS))
        if not methods:
            continue
        options = _OPTIONS.get(f"{methods} {path}") or _OPTIONS.get(path) or _OPTIONS.get(methods, "")
        yield Listed(
            methods=methods,
            path=template_of(rule.rule),
            meaning=(inspect.getdoc(view) or "").partition("\n")[0],
            command=f"curl -i {options}{_QUOTED.get(path, '{}').format(base + path)}",
        )


@lru_cache(maxsize=256)
def template_of(rule: str) -> str:
    """The path of a route, its parameters in braces."""
    return _PARAMETER.sub(r"{\1}", rule)


def _as_text(routes: list[Listed]) -> str:
    lines = [f"Sluice {__version__}", "", summary or "", ""]
    for route in routes:
        lines += [f"{route.methods} {route.path}", f"    {route.meaning}", f"    {route.command}", ""]
    return "\n".join(lines)


def _as_html(routes: list[Listed]) -> str:
    rows = "\n".join(
        f"<dt><code>{html.escape(f'{route.methods} {route.path}')}</code></dt>"
        f"<dd>{html.escape(route.meaning)}<pre>{html.escape(route.command)}</pre></dd>"
        for route in routes
    )
    return _PAGE.format(version=html.escape(__version__), summary=html.escape(summary or ""), rows=rows)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sluice</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; color: #1a2530 }}
  h1 small {{ font-weight: normal; color: #5b6b7a }}
  dt {{ margin-top: 1.5rem; font-size: 1.05rem }}
  dd {{ margin: 0 }}
  pre {{ background: #eef2f6; padding: .5rem .75rem; border-radius: 4px; overflow-x: auto; margin: .25rem 0 0 }}
</style>
<h1>Sluice <small>{version}</small></h1>
<p>{summary}</p>
<dl>
{rows}
</dl>
</html>
"""
