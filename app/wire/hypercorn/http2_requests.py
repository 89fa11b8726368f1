"""Malformed requests over HTTP/2: each ends its own stream, and no other (RFC 9113 8.1.1).

h2 finds most of what may be wrong with one, but ends the connection for it, with all other streams of a client that
may be a proxy. What HTTP/1.1 is refused for here, and h2 lets pass, is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

from h2.connection import (
    AllowedStreamIDs,
    ConnectionInputs,
    H2Connection,
    _decode_headers,  # pyright: ignore[reportPrivateUsage]
)
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import ProtocolError, TooManyStreamsError
from h2.stream import H2Stream, StreamInputs
from h2.utilities import HeaderValidationFlags
from hyperframe.frame import Frame, HeadersFrame, PriorityFrame

from app.wire.fields import TOKEN, Field, shown
from app.wire.request_heads import HOST

_TOKEN = re.compile(TOKEN)
# As of a head of HTTP/1.1: VCHAR without "#".
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+")


class Http2Connection(H2Connection):
    """h2's connection, which goes on after a malformed request, and after one stream too many (5.1.2).

    It heeds no priorities (5.3.2): Hypercorn would sort all streams anew for each.
    """

    _heads = 0

    @property
    def unfinished_head(self) -> int | None:
        """The number of the head of which a part has come, another for each; None where there is no such part."""
        buffer = cast("Any", self.incoming_buffer)
        begun = buffer._headers_buffer or buffer._data[3:4] == b"\x01"  # HEADERS
        return self._heads if begun else None

    def take_fault(self, stream_id: int) -> str | None:
        """What is wrong with the request of that stream, once; None where nothing is."""
        stream = self.streams.get(stream_id)
        if not isinstance(stream, _Stream):
            return None
        fault, stream.fault = stream.fault, None
        return fault

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _Stream
        return stream

    def _receive_priority_frame(self, frame: HeadersFrame | PriorityFrame) -> tuple[list[Frame], list[Event]]:
        return [], self.state_machine.process_input(ConnectionInputs.RECV_PRIORITY)

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        self._heads += 1
        frame.flags.discard("PRIORITY")
        try:
            return super()._receive_headers_frame(frame)
        except TooManyStreamsError:
            return self._refuse_stream(frame)

    def _refuse_stream(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        """Its fields are read nevertheless: those of later requests refer to them (RFC 7541 2.3)."""
        _decode_headers(self.decoder, frame.data)
        events = self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        stream = self._begin_new_stream(frame.stream_id, AllowedStreamIDs.ODD)
        stream.state_machine.process_input(StreamInputs.RECV_HEADERS)
        return stream.reset_stream(ErrorCodes.REFUSED_STREAM), events


class _Stream(H2Stream):
    """fault: what is wrong with its request; it is no exception then, which would end the connection."""

    fault: str | None = None
    _has_head = False

    def receive_headers(self, headers: Any, end_stream: bool, header_encoding: Any) -> tuple[list[Frame], list[Event]]:
        received = super().receive_headers(headers, end_stream, header_encoding)
        if end_stream:
            self._track_content_length(0, end_stream=True)
        return received

    def _process_received_headers(
        self, headers: Any, header_validation_flags: HeaderValidationFlags, header_encoding: Any
    ) -> list[Any]:
        try:
            received = super()._process_received_headers(headers, header_validation_flags, header_encoding)
        except ProtocolError as error:
            self.fault = self.fault or _words(error)
            return list(headers)
        self.fault = self.fault or fault_of(received)
        return received

    def _initialize_content_length(self, headers: Any) -> None:
        if self._has_head:  # these are trailers, which say nothing of it
            return
        self._has_head = True
        try:
            super()._initialize_content_length(headers)
        except ProtocolError as error:
            self.fault = self.fault or _words(error)

    def _track_content_length(self, length: int, end_stream: bool) -> None:
        try:
            super()._track_content_length(length, end_stream)
        except ProtocolError as error:
            self.fault = self.fault or _words(error)


def _words(error: ProtocolError) -> str:
    """h2 quotes what it was sent."""
    return str(error).encode("unicode_escape").decode()[:100]


def fault_of(fields: Iterable[Field]) -> str | None:
    """What is wrong with a head or trailers in which h2 found nothing. Pure."""
    given: dict[bytes, bytes] = {}
    for name, value in fields:
        given[name] = value
        if not (name.startswith(b":") or _TOKEN.fullmatch(name)):
            return f"not a field name: {shown(name)}"
        if not _VALUE.fullmatch(value):
            return f"not a field value: {shown(value)}"
    method, path = given.get(b":method"), given.get(b":path")
    authority = given.get(b":authority") or given.get(b"host")
    if method is not None and not _TOKEN.fullmatch(method):
        return f"not a method: {shown(method)}"
    if path is not None and not _PATH.fullmatch(path) and (method, path) != (b"OPTIONS", b"*"):
        return f"not a path: {shown(path)}"
    if authority and not HOST.fullmatch(authority):
        return f"not a host: {shown(authority)}"
    return None
