"""Quart-Trio without what it does anew for each request: what a view gets and says stays the same."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from quart import Blueprint, Response, jsonify, request, url_for

from app.settings import load_settings
from app.web import lean
from app.web.application import build_application
from app.wire.asgi import AsgiApp
from tests.web.wire import Wire, scope


@pytest.fixture
def application() -> AsgiApp:
    blueprint = Blueprint("views", __name__)

    @blueprint.get("/text")
    async def text() -> str:
        return "text"

    @blueprint.get("/typed")
    async def typed() -> tuple[str, dict[str, str]]:
        return "typed", {"content-type": "text/x-own", "x-other": "1"}

    @blueprint.get("/json")
    async def json() -> Response:
        return jsonify(1)

    @blueprint.get("/mime")
    async def mime() -> Response:
        return Response("<a/>", mimetype="image/png")

    @blueprint.get("/echo/<name>")
    async def echo(name: str) -> dict[str, object]:
        fields = {key: value for key, value in request.headers.items() if key.startswith("X-")}
        there = url_for("views.echo", name=name, _external=True)
        return {"name": name, "query": request.query_string.decode(), "fields": fields, "there": there}

    @blueprint.post("/form")
    async def form() -> dict[str, list[str]]:
        got: list[str] = []

        async def read() -> None:
            got.append((await request.form)["a"])

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
        return {"got": got}

    return build_application([blueprint], [], load_settings({}).server)


async def _ask(application: AsgiApp, path: str, body: bytes = b"", **more: object) -> Wire:
    wire = Wire((body,))
    given = {"scheme": "http", "query_string": b"", "root_path": "", "raw_path": path.encode(), "extensions": {}}
    await application(scope(more.pop("fields", None), path=path, **given | more), wire.receive, wire.send)  # type: ignore[arg-type]
    return wire


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/text", b"text/html; charset=utf-8"),
        ("/typed", b"text/x-own"),
        ("/json", b"application/json"),
        ("/mime", b"image/png"),
    ],
)
async def test_an_answers_type_is_what_its_view_says(application: AsgiApp, path: str, kind: bytes) -> None:
    for _ in range(2):
        (message,) = (await _ask(application, path)).sent
        fields = dict(message["headers"])
        assert fields[b"content-type"] == kind
        assert (b"x-other" in fields) == (path == "/typed")


async def test_each_request_is_routed_by_all_that_it_says(
    application: AsgiApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean, "_MOST_FOUND", 3)
    for turn in range(2):
        for name in ("a", "b", "c", "d", "x" * 600):
            for host in ("one", "two"):
                more: dict[str, Any] = {
                    "query_string": b"turn=%d" % turn,
                    "fields": {"host": host, "x-turn": str(turn)},
                }
                (message,) = (await _ask(application, f"/echo/{name}", **more)).sent
                said = lean.LeanQuart("said").json.loads(message["body"])
                assert said["name"] == name
                assert said["query"] == f"turn={turn}"
                assert said["fields"] == {"X-Turn": str(turn)}
                assert said["there"] == f"http://{host}/echo/{name}"


async def test_who_wants_the_form_at_the_same_time_gets_it(application: AsgiApp) -> None:
    fields = {"content-type": "application/x-www-form-urlencoded", "content-length": "3"}
    wire = await _ask(application, "/form", b"a=b", method="POST", fields=fields)
    assert lean.LeanQuart("said").json.loads(wire.sent[0]["body"]) == {"got": ["b"] * 3}
