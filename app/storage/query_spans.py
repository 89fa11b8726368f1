"""What spans say of statements, by OpenTelemetry's semantic conventions for databases."""

from __future__ import annotations

from functools import lru_cache

from app.flow.spans import NOTHING, Attributes, Nothing, Span, current, span

_MOST_TEXT = 2000


def query_span(system: str, sql: str) -> Span | Nothing:
    """The span of a statement. sql: as it is written, without the values of its parameters."""
    parent = current()
    if parent is None:
        return NOTHING
    operation, text = _said(sql)
    said: Attributes = {"db.system.name": system, "db.operation.name": operation, "db.query.text": text}
    return parent.child(operation, said, "client")


def wait_span(system: str) -> Span | Nothing:
    """The span of waiting for a connection, for those who have to."""
    return span("connection wait", {"db.system.name": system})


@lru_cache(maxsize=256)
def _said(sql: str) -> tuple[str, str]:
    words = sql.split()
    return words[0].upper(), " ".join(words)[:_MOST_TEXT]
