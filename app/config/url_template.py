"""The address of an upstream, with ``{placeholders}`` that a request's parameters fill."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from app.errors import BadRequest

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]{0,63})\}")
_VISIBLE = re.compile(r"[\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7b\x7d\x7e]+")
_PORTS = {"http": 80, "https": 443}
_DOTS = {".", ".."}


@dataclass(frozen=True, repr=False)
class UrlTemplate:
    """An address of HTTP. Where it leads, nobody but the operator says: placeholders are in path and query only.

    text: as it was written. pieces: of path and query: what is literal, and between that the placeholders' names.
    host: in lower case, of IPv6 without brackets. in_path: the names that stand before the question mark.
    """

    text: str
    scheme: str
    host: str
    port: int
    pieces: tuple[str, ...]
    in_path: frozenset[str]

    def __repr__(self) -> str:
        return repr(self.text)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the placeholders, each once."""
        return tuple(dict.fromkeys(self.pieces[1::2]))

    @property
    def authority(self) -> str:
        """As in the field ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def fill(self, values: Mapping[str, str]) -> str:
        """Path and query, each value percent-encoded: whatever it is, it stays within its place.

        *Errors*: BadRequest where a value is missing; where one in the path is empty, or makes ``.`` or ``..`` a
        segment, which would lead elsewhere.
        """
        parts = list(self.pieces)
        for place in range(1, len(parts), 2):
            name = parts[place]
            value = values.get(name)
            if value is None:
                raise BadRequest(f"{name}: is missing, and this view needs it")
            if not value and name in self.in_path:
                raise BadRequest(f"{name}: may not be empty")
            parts[place] = quote(value, safe="", errors="replace")
        target = "".join(parts)
        if self.in_path and _DOTS & set(target.partition("?")[0].split("/")):
            raise BadRequest(f"{', '.join(sorted(self.in_path))}: may not be a path's . or ..")
        return target


def parse_url_template(text: str) -> UrlTemplate:
    """*Errors*: ValueError, in words, where it is none."""
    if not _VISIBLE.fullmatch(text):
        raise ValueError("an address of visible ASCII, percent-encoded where there is need")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # whose words have a part of the address in them, which may be a password
        raise ValueError("an address with a host and a port that can be") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("an address that begins with http:// or https:// and a host")
    if "@" in parts.netloc or "{" in parts.netloc or "#" in text:
        raise ValueError("an address without user, fragment, and placeholders in its host")
    port = _PORTS[parts.scheme] if port is None else port
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    pieces = _PLACEHOLDER.split(target)
    if any("{" in literal or "}" in literal for literal in pieces[::2]):
        raise ValueError("placeholders such as {user_id}: letters, digits, _ and -")
    if _DOTS & set(parts.path.split("/")):
        raise ValueError("a path without . and ..")
    in_path = frozenset(_PLACEHOLDER.findall(parts.path))
    return UrlTemplate(text, parts.scheme, parts.hostname, port, tuple(pieces), in_path)
