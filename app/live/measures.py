"""What the topics tell to those who measure."""

from __future__ import annotations

from collections.abc import Iterable

from app.live.service import Live
from app.telemetry import families as f
from app.telemetry.metrics import Reading


def live_measures(live: Live) -> Iterable[Reading]:
    state = live.statistics()
    yield f.PUBLISHED, (), state.publisher.published
    yield f.DELIVERED, (), state.hub.delivered
    for topic, count in state.hub.by_topic.items():
        yield f.SUBSCRIBERS, (topic,), count
    for (topic, policy), count in state.hub.dropped.items():
        yield f.DROPPED, (topic, policy), count
