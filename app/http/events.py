"""Server-sent events on the wire (WHATWG HTML 9.2)."""

from __future__ import annotations

import re

STREAM_FIELDS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # A proxy that collects an answer before it passes it on, as nginx does, would hold events back.
    (b"x-accel-buffering", b"no"),
)
_LONGEST_ID = 1024
_LINE_END = re.compile(rb"\r\n|\r|\n")
_NOT_IN_A_LINE = re.compile("[\r\n\0]")


def encode_event(
    data: bytes | str, *, id: str | None = None, event: str | None = None, retry_ms: int | None = None
) -> bytes:
    r"""One event, whole. data: UTF-8; its line ends, which may be ``\n``, ``\r`` or ``\r\n``, arrive as ``\n``.

    id: what a client names as the last one it has seen when it comes again. event: its type; None for ``message``.
    retry_ms: after how many milliseconds it shall come again.

    *Errors*: ValueError where ``id`` or ``event`` has a line end or NUL, which would be another field, or be ignored;
    or ``retry_ms`` is below 0.
    """
    lines: list[bytes] = []
    if retry_ms is not None:
        if retry_ms < 0:
            raise ValueError(f"no time to wait: {retry_ms} ms")
        lines.append(b"retry: %d" % retry_ms)
    if id is not None:
        lines.append(b"id: " + _in_a_line(id))
    if event is not None:
        lines.append(b"event: " + _in_a_line(event))
    text = data if isinstance(data, bytes) else data.encode(errors="replace")
    lines += [b"data: " + line for line in _LINE_END.split(text)]
    return b"\n".join(lines) + b"\n\n"


def comment(text: str = "") -> bytes:
    """What a client ignores, and a proxy takes as a sign of life."""
    lines = _LINE_END.split(text.encode(errors="replace"))
    return b"".join(b": " + line + b"\n" for line in lines) + b"\n"


def parse_last_event_id(field: bytes | None) -> str | None:
    """The id of the last event that a client has seen; None where it names none, or none that it can have from us."""
    if not field or len(field) > _LONGEST_ID:
        return None
    try:
        id = field.decode()
    except UnicodeDecodeError:
        return None
    return None if _NOT_IN_A_LINE.search(id) else id


def _in_a_line(text: str) -> bytes:
    if _NOT_IN_A_LINE.search(text):
        raise ValueError(f"a line end or NUL in {text!r}")
    return text.encode(errors="replace")
