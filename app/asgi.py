"""``app.asgi:app``, what Hypercorn loads: the server, made of the settings in the environment."""

from __future__ import annotations

from app.cli import or_exit
from app.compose import build_server
from app.flow.drain import DrainGate
from app.settings import load_settings
from app.telemetry.logs import configure_logs
from app.wire.drain import Drain
from app.wire.hypercorn import install

_settings = or_exit(load_settings)
configure_logs(_settings.telemetry.log_level)
_gate = DrainGate()
install(
    Drain(_gate, _settings.server.drain_delay, _settings.server.drain_timeout),
    _settings.server,
    _settings.threads.io,
)
app = build_server(_settings, _gate)
