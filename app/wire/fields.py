"""Field sections of HTTP/1.1 (RFC 9112 5): where one ends, whether it is well-formed, what it holds.

A head is a request line and a field section, the trailers of a chunked body are a field section alone. Pure.
"""

from __future__ import annotations

import re
from typing import NoReturn

from app.errors import BadRequest

type Field = tuple[bytes, bytes]
type Buffer = bytes | bytearray

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# Controls other than HTAB are refused in values: what a log, a CGI or the next hop makes of them nobody knows.
_LINE = TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n"
SECTION_PATTERN = rb"(?:" + _LINE + rb")*+\r\n"
# The same without white space at the end of a line, which hardly anybody sends: then nothing need be stripped.
TIDY_SECTION_PATTERN = SECTION_PATTERN.replace(rb"*+\r\n)", rb"*+(?<![\t ])\r\n)")
_SECTION = re.compile(SECTION_PATTERN)
_FIELD = re.compile(rb"(" + TOKEN + rb"):[\t ]*+([^\r\n]*+)\r\n")
_FIELD_LINE = re.compile(_LINE)
# A CR is judged once the byte behind it is there.
_STRAY = re.compile(rb"(?<!\r)\n|\r[^\n]")

_TOKEN_BEGIN = re.compile(TOKEN)

TOO_LONG = -1


def section_length(buffer: Buffer, at: int, scanned: int, limit: int) -> int:
    """Bytes of the section that begins at ``at``, its empty line included; 0 where more of it is needed.

    scanned: how many bytes of it an earlier call has seen; they are not searched again.
    TOO_LONG where it does not end within ``limit`` bytes. The answer does not depend on how many bytes more there are,
    so that it is the same however the bytes came in.

    Errors: BadRequest for a CR or LF alone in an unfinished section, which a lenient peer might take for its end.
    """
    end = buffer.find(b"\r\n\r\n", max(at, at + scanned - 3), at + limit)
    if end >= 0:
        return end + 4 - at
    refuse_stray(buffer, max(at, at + scanned - 1), at + limit + 1)
    return TOO_LONG if len(buffer) - at > limit else 0


def begins_with_token(buffer: Buffer, at: int) -> bool:
    """Whether a method or a field name may begin at ``at``."""
    return _TOKEN_BEGIN.match(buffer, at, at + 1) is not None


def refuse_stray(buffer: Buffer, start: int, stop: int) -> None:
    """Errors: BadRequest where a CR or LF stands alone between ``start`` and ``stop``."""
    if _STRAY.search(buffer, start, stop):
        raise BadRequest("a line ends in CR or LF alone, not in CRLF")


def parse_section(section: bytes) -> list[Field]:
    """The fields of a whole section: names in lower case, values without the white space around them.

    Errors: BadRequest.
    """
    if not _SECTION.fullmatch(section):
        refuse_section(section)
    return [(name.lower(), value.rstrip(b" \t")) for name, value in _FIELD.findall(section)]


def refuse_section(section: bytes) -> NoReturn:
    """Errors: BadRequest, with the first line of an ill-formed ``section`` that is no field line."""
    refuse_stray(section, 0, len(section))
    at = 0
    while line := _FIELD_LINE.match(section, at):
        at = line.end()
    raise BadRequest(f"not a field line: {shown(section[at : section.find(b'\r\n', at)])}")


def shown(data: Buffer) -> str:
    """At most 32 bytes of input, printable, fit for an error's ``detail``."""
    return repr(bytes(data[:32])).removeprefix("b") + ("…" if len(data) > 32 else "")
