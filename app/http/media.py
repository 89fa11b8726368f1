"""What a stored report is called on the wire: its media type, and its ``Content-Disposition`` (RFC 6266)."""

from __future__ import annotations

import mimetypes
import re

# What a browser may show in place. Anything else, HTML and SVG above all, could run script in the server's origin.
_SHOWN = re.compile(r"application/(pdf|json|x-ndjson)|text/(plain|csv)|image/(png|jpeg|gif|webp)")
_EXTENSIONS = {"application/octet-stream": ".bin", "application/x-ndjson": ".ndjson", "text/plain": ".txt"}
# The tables of the standard library only: what a machine's own files say would change the name from host to host.
_TYPES = mimetypes.MimeTypes()
_UNSAFE = re.compile(r"[^A-Za-z0-9._@-]")
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]++"
_PARAMETER = rf'{_WORD}=(?:{_WORD}|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*+")'
_MEDIA_TYPE = re.compile(rf"{_WORD}/{_WORD}(?:[ \t]*+;[ \t]*+(?:{_PARAMETER})?)*+")
# What a row has room for, and more than a registered one has (RFC 6838 4.2).
_LONGEST = 127


def is_media_type(text: str) -> bool:
    """Whether ``text`` is a media type, with or without parameters (RFC 9110 8.3.1), that can be kept: of ASCII."""
    return len(text) <= _LONGEST and _MEDIA_TYPE.fullmatch(text) is not None


def content_disposition(user_id: str, media_type: str) -> str:
    """``inline`` or ``attachment`` with ``report-USER.EXT``: a name that needs no quoting and hides no extension."""
    essence = media_type.partition(";")[0].strip().lower()
    kind = "inline" if _SHOWN.fullmatch(essence) else "attachment"
    return f'{kind}; filename="report-{_UNSAFE.sub("_", user_id)}{extension_of(media_type)}"'


def extension_of(media_type: str) -> str:
    """The file name extension, with its dot, of a media type; ``.bin`` where there is none."""
    essence = media_type.partition(";")[0].strip().lower()
    return _EXTENSIONS.get(essence) or _TYPES.guess_extension(essence) or ".bin"


def media_type_of(name: str, head: bytes) -> str:
    """The media type that a file's name says, else the one that its first bytes say (only PDF is told by them)."""
    named, encoding = _TYPES.guess_type(name)
    if named is not None and encoding is None:
        return named
    return "application/pdf" if head.startswith(b"%PDF-") else "application/octet-stream"
