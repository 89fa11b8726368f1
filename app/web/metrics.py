"""``/metrics``: what all workers of this server have counted, for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from app.flow.threads import ThreadPool
from app.http.answers import Answer, ShortRoute
from app.http.negotiation import preferred
from app.telemetry.exposition import OPEN_METRICS, TEXT, expose
from app.telemetry.snapshots import Snapshot

_TEXT, _OPEN_METRICS = (name.partition(";")[0] for name in (TEXT, OPEN_METRICS))


def metrics_route(collect: Callable[[], Awaitable[Snapshot]], threads: ThreadPool) -> ShortRoute:
    """``GET /metrics``. collect: what there is; it becomes text in one of ``threads``."""

    async def show(method: str, parameter: str, fields: Mapping[str, str], query: bytes) -> Answer:
        open_metrics = preferred(fields.get("accept"), (_TEXT, _OPEN_METRICS)) == _OPEN_METRICS
        snapshot = await collect()
        body = await threads.run(partial(expose, snapshot, open_metrics=open_metrics))
        content_type = (OPEN_METRICS if open_metrics else TEXT).encode()
        fixed = ((b"content-type", content_type), (b"cache-control", b"no-store"), (b"vary", b"Accept"))
        return Answer(200, fixed, body)

    return ShortRoute("/metrics", "", "What this server counts, for Prometheus.", frozenset((b"accept",)), show)
