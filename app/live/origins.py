"""Pages of other sites: who may read and publish (the fetch standard's CORS), and who may open a WebSocket. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_ALLOWED_FIELDS = (
    b"content-type, idempotency-key, last-event-id, sluice-deadline, traceparent, tracestate, x-request-id"
)
_PREFLIGHT_SECONDS = 600


class Origins:
    """allowed: such as ``https://example.org``; ``*``: any."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(allowed)

    def allows(self, origin: str) -> bool:
        return "*" in self._allowed or origin in self._allowed

    def may_connect(self, origin: str | None, host: str | None) -> bool:
        """A browser names the origin of the page that opens a WebSocket, and asks nobody: we have to look. What is no
        browser names none; our own pages come from our own host."""
        return origin is None or self.allows(origin) or origin.partition("://")[2] == host

    def fields(self, origin: str | None) -> tuple[tuple[bytes, bytes], ...]:
        """Of an answer to a page of that origin."""
        if not self._allowed:
            return ()
        vary = (b"vary", b"Origin")
        if origin is None or not self.allows(origin):
            return (vary,)
        return (vary, (b"access-control-allow-origin", origin.encode("latin-1")))

    def preflight(self, origin: str | None, methods: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """Of the answer to a browser that asks first."""
        fields = self.fields(origin)
        if len(fields) < 2:
            return fields
        return (
            *fields,
            (b"access-control-allow-methods", methods),
            (b"access-control-allow-headers", _ALLOWED_FIELDS),
            (b"access-control-max-age", b"%d" % _PREFLIGHT_SECONDS),
        )
