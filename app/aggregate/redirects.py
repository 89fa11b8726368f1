"""Where a redirect leads, and what is said there."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urljoin, urlsplit

import httpcore

type Fields = Sequence[tuple[bytes, bytes]]

MOST_REDIRECTS = 5
REDIRECTS = frozenset((301, 302, 303, 307, 308))

_PORTS = {b"http": 80, b"https": 443}
_OF_URLS = "%/:?#[]@!$&'()*+,;=~"
# What a call says whoever it is to; the rest is the source's own, and is not told to others.
_SAID_TO_ALL = frozenset((b"accept", b"accept-encoding", b"traceparent", b"tracestate", b"user-agent", b"x-request-id"))


def follow(url: httpcore.URL, location: bytes) -> httpcore.URL | None:
    """Where ``Location`` (RFC 9110 10.2.2) leads from ``url``; None where nobody is to go.

    That is what is no address of HTTP, and from ``https`` to ``http``.
    """
    try:
        base = f"{url.scheme.decode()}://{_authority(url)}{url.target.decode()}"
        parts = urlsplit(urljoin(base, quote(location, safe=_OF_URLS)))
        scheme, host, port = parts.scheme.encode(), (parts.hostname or "").encode("ascii"), parts.port
    except ValueError:
        return None
    if scheme not in _PORTS or not host or (url.scheme == b"https" and scheme != b"https"):
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(scheme=scheme, host=host, port=_PORTS[scheme] if port is None else port, target=target.encode())


def fields_for(fields: Fields, before: httpcore.URL, url: httpcore.URL) -> Fields:
    """``fields``, that were for ``before``: at another origin without what only that may know."""
    if url.origin == before.origin:
        return fields
    return ((b"host", _authority(url).encode()), *(field for field in fields if field[0] in _SAID_TO_ALL))


def _authority(url: httpcore.URL) -> str:
    """As in the field ``Host``."""
    host = f"[{url.host.decode()}]" if b":" in url.host else url.host.decode()
    return host if url.port in {None, _PORTS[url.scheme]} else f"{host}:{url.port}"
