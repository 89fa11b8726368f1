"""The benchmark's routes within Sluice: its wire, its boundary and its Quart application, but none of its rooms."""

from __future__ import annotations

from app.settings import load_settings
from app.web.application import build_application
from tests.bench.peers.quart_routes import bench_blueprint
from tests.under_hypercorn import application, no_rooms

_routes = build_application([bench_blueprint()], [], load_settings().server)
app = application(lambda: no_rooms(_routes))
