"""Digests of what is sent (RFC 9530): ``Content-Digest`` and ``Repr-Digest``, of which SHA-256 is understood."""

from __future__ import annotations

import base64
import binascii
import re

from app.errors import BadRequest

# A dictionary of structured fields (RFC 9651 3.2) whose members are byte sequences; their parameters mean nothing here.
_KEY = r"[a-z*][a-z0-9_.*-]*+"
_BYTES = r":[A-Za-z0-9+/]*+={0,2}:"
_ITEM = (
    rf'(?:{_BYTES}|-?[0-9]{{1,15}}(?:\.[0-9]{{1,3}})?|\?[01]|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+"'
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*+)"
)
_MEMBER = re.compile(rf"({_KEY})=({_BYTES})(?:; *+{_KEY}(?:={_ITEM})?)*+")
_SEPARATOR = re.compile(r"[ \t]*+,[ \t]*+")
_SHA256_BYTES = 32


def sha256_of(name: str, field: str) -> bytes | None:
    """The SHA-256 that the value ``field`` of the field ``name`` tells; None where it tells other digests only.

    *Errors*: BadRequest where it is no dictionary of byte sequences, or the digest of another length.
    """
    found: bytes | None = None
    text = field.strip(" ")
    at = 0
    while at < len(text):
        member = _MEMBER.match(text, at)
        if member is None:
            raise _malformed(name)
        if member[1] == "sha-256":  # of several the last counts (RFC 9651 4.2.2)
            found = _decoded(name, member[2])
        at = member.end()
        if at < len(text):
            separator = _SEPARATOR.match(text, at)
            if separator is None or separator.end() == len(text):
                raise _malformed(name)
            at = separator.end()
    return found


def _decoded(name: str, sequence: str) -> bytes:
    bare = sequence.strip(":=")
    try:
        digest = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error as error:
        raise _malformed(name) from error
    if len(digest) != _SHA256_BYTES:
        raise BadRequest(f"{name}: a sha-256 has {_SHA256_BYTES} bytes, this one {len(digest)}")
    return digest


def _malformed(name: str) -> BadRequest:
    return BadRequest(f"{name}: is no list of digests such as sha-256=:BASE64: (RFC 9530)")
