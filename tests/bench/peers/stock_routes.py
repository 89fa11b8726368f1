"""The benchmark's routes on Quart-Trio as it comes, with none of the limits that would end a long upload."""

from __future__ import annotations

from quart_trio import QuartTrio

from tests.bench.peers.quart_routes import bench_blueprint

app = QuartTrio(__name__)
app.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
app.register_blueprint(bench_blueprint())
