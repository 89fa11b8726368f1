"""``Idempotency-Key`` (draft-ietf-httpapi-idempotency-key-header), and what tells one request from another."""

from __future__ import annotations

import hashlib
import re

from app.errors import BadIdempotencyKey

_LONGEST = 255
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+)"')
_ESCAPE = re.compile(r'\\(["\\])')
_VISIBLE = re.compile(r"[\x21-\x7e]++")


def parse_key(field: str | None) -> str | None:
    """The key: a string of structured fields (RFC 9651 3.3.3) as the draft wants it, or bare, as many clients send it,
    which is the same key; None where there is none.

    *Errors*: BadIdempotencyKey unless it is 1 to 255 visible characters of ASCII.
    """
    if field is None:
        return None
    key = field.strip(" \t")
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        key = "" if quoted is None else _ESCAPE.sub(r"\1", quoted[1])
    if len(key) > _LONGEST or _VISIBLE.fullmatch(key) is None:
        raise BadIdempotencyKey(f"Idempotency-Key: is not 1 to {_LONGEST} visible characters of ASCII, bare or quoted")
    return key


class Fingerprint:
    """Two requests are the same if theirs are: of the same words, such as method and target, and the same body."""

    def __init__(self, *words: str) -> None:
        self._hash = hashlib.sha256()
        for word in words:
            data = word.encode()
            # With their lengths, so that no word goes over into the next, or into the body.
            self._hash.update(b"%d:%b" % (len(data), data))
        self._hash.update(b";")

    def feed(self, chunk: bytes) -> None:
        """The body, in chunks of any size."""
        self._hash.update(chunk)

    def value(self) -> str:
        """64 hexadecimal digits, for what was fed so far."""
        return self._hash.hexdigest()
