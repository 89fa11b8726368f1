"""Who a request is: ``X-Request-Id``, and the trace it belongs to (W3C Trace Context)."""

from __future__ import annotations

import random
import re
import secrets

import msgspec

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_MOST_STATE = 512
_MOST_STATE_MEMBERS = 32
_STATE_MEMBER = re.compile(rb"([a-z0-9][a-z0-9_\-*/@]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")


def request_id(given: bytes | None) -> str:
    """The client's id where it is 1–64 of ``[A-Za-z0-9._-]``, else a new one.

    A new one is no secret: the system's own randomness would cost a system call.
    """
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{random.getrandbits(64):016x}"


class Trace(msgspec.Struct, frozen=True):
    """One hop of a distributed trace, with a span of our own.

    traceparent: what names it (Trace Context 3.2). parent_id: the caller's span, or nothing.
    """

    traceparent: str
    parent_id: str = ""

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    @property
    def is_sampled(self) -> bool:
        return self.traceparent.endswith("1")


def continue_trace(traceparent: bytes | None) -> Trace | None:
    """The trace that ``traceparent`` names, continued by a new span; None without a valid one (Trace Context 3.2)."""
    match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None or match["version"] == b"ff" or (match["version"] == b"00" and match["more"]):
        return None
    trace, span = match["trace"].decode(), match["span"].decode()
    if not trace.strip("0") or not span.strip("0"):
        return None
    # Of the flags only "sampled" is known to version 00; the others are not passed on (3.2.2.5.2).
    sampled = int(match["flags"], 16) & 1
    return Trace(f"00-{trace}-{secrets.token_hex(8)}-{sampled:02x}", span)


def passed_on_state(tracestate: bytes) -> bytes | None:
    """``tracestate`` as it goes on with a trace that is continued: as it came, for it is others' (Trace Context 3.3);
    None where it is empty, too long to be passed on (3.3.1.5), or no list (3.3.1.1) of ``key=value`` of ASCII, each key
    once."""
    if len(tracestate) > _MOST_STATE:
        return None
    members = [member.strip(b" \t") for member in tracestate.split(b",")]
    told = [member for member in members if member]
    keys = {match[1] for member in told if (match := _STATE_MEMBER.fullmatch(member))}
    return b",".join(told) if 0 < len(keys) == len(told) <= _MOST_STATE_MEMBERS else None
