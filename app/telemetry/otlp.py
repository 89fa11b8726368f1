"""Spans in OTLP's protobuf (opentelemetry-proto, ``trace/v1/trace.proto``), by hand.

That is most of what traces cost, and the thread that does it has the interpreter in common with the event loop. The
SDK's own encoder takes several times as long, as it remembers nothing of attributes that come again and again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from app.flow.spans import Kind, Span, Value

# Attributes that are remembered, encoded.
_MOST_REMEMBERED = 1024
# Tags: the number of a field, and how it is written.
_TRACE_ID, _SPAN_ID, _STATE, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x1a", b"\x22\x08"
_NAME, _ATTRIBUTE = b"\x2a", b"\x4a"
_KINDS: dict[Kind, bytes] = {
    "internal": b"\x30\x01",
    "server": b"\x30\x02",
    "client": b"\x30\x03",
    "producer": b"\x30\x04",
}
_FAILED, _UNSET = b"\x7a\x02\x18\x02", b"\x7a\x00"
# That it is known whether the parent is another process's; and that it is.
_LOCAL, _REMOTE = b"\x85\x01\x00\x01\x00\x00", b"\x85\x01\x00\x03\x00\x00"
_TIMES = struct.Struct("<BQBQ")
_DOUBLE = struct.Struct("<d")
_ANY_64_BITS = (1 << 64) - 1


def encode_batch(resource: bytes, scope: bytes, spans: Iterable[Span]) -> bytes:
    """``ExportTraceServiceRequest``. resource, scope: encoded, they are the same for all."""
    scope_spans = _field(b"\x0a", scope) + b"".join([_field(b"\x12", encode_span(span)) for span in spans])
    return _field(b"\x0a", _field(b"\x0a", resource) + _field(b"\x12", scope_spans))


def encode_span(span: Span) -> bytes:
    """``Span``."""
    parts = [_TRACE_ID, span.tree.trace_id.to_bytes(16), _SPAN_ID, span.id.to_bytes(8)]
    if span.tree.state:
        parts.append(_field(_STATE, span.tree.state))
    if span.parent is not None:
        parts += (_PARENT_ID, span.parent.to_bytes(8))
    parts += (_name(span.name), _KINDS[span.kind], _TIMES.pack(0x39, span.began, 0x41, span.ended))
    parts += [_attribute(name, value) for name, value in span.attributes.items()]
    parts.append(_FAILED if span.is_error else _UNSET)
    parts.append(_REMOTE if span.kind == "server" and span.parent is not None else _LOCAL)
    return b"".join(parts)


@lru_cache(maxsize=_MOST_REMEMBERED)
def _name(name: str) -> bytes:
    return _field(_NAME, _text(name))


@lru_cache(maxsize=_MOST_REMEMBERED, typed=True)
def _attribute(name: str, value: Value) -> bytes:
    return _field(_ATTRIBUTE, _field(b"\x0a", _text(name)) + _field(b"\x12", _value(value)))


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            return b"\x18" + _varint(value & _ANY_64_BITS)
        case float():
            return b"\x21" + _DOUBLE.pack(value)
        case str():
            return _field(b"\x0a", _text(value))


def _text(text: str) -> bytes:
    """(What has lone surrogates has no UTF-8.)"""
    return text.encode("utf-8", "replace")


def _field(tag: bytes, data: bytes) -> bytes:
    return b"%b%b%b" % (tag, _varint(len(data)), data)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return number.to_bytes()
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
