"""The names of ASGI (https://asgi.readthedocs.io), as types, and the one extension of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any, Protocol

import trio

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

PEER = "sluice.peer"
"""The extension (in ``scope["extensions"]``) under which a server of ours puts the request's `Peer`."""
WHOLE = "sluice.response"
"""The extension by which an answer whose body is at hand is sent in one message of that type: status, headers, body.

What headers come to that are a tuple is remembered, for answers that are given again and again. ``own``, where it is
there, are the lines of headers of this answer alone, as they go out, none about the message or its date. ``close``:
where it is true no further request is taken. What goes without waiting is sent when ``send`` is called, and `NOTHING`
returned if that was all."""
ROUTE = "sluice.route"
"""The member of a scope under which the application says which route the request went to: its path as a template."""
ZERO_COPY = "http.response.zerocopysend"
"""ASGI's extension by which a server sends a part of a file by itself."""

TRAILERS = "http.response.trailers"
"""ASGI's extension by which fields follow the body; a server of ours offers it where the client takes them."""


class _Nothing:
    __slots__ = ()

    def __await__(self) -> Generator[None]:
        return iter(())  # type: ignore[return-value] # which ends as a generator does that yields nothing


NOTHING: Awaitable[None] = _Nothing()
"""There is nothing to wait for: a coroutine for that would cost more than what has been done."""

type SendNow = Callable[[bytes], bool]
"""Sends a part of the body of an answer that has begun, while no ``send`` runs, as far as that goes without waiting;
False where some of it is left, which goes with the next ``send``. For whoever sends the same to many."""


class Peer(Protocol):
    """Who asked, as its socket tells, whether anybody reads from it or not.

    scope: the cancel scope that the application was called in, if that is only there for requests of this peer, which
    come one after the other: cancelling it ends the request that runs, and no other follows.
    """

    scope: trio.CancelScope | None

    @property
    def started(self) -> bool:
        """Whether some of the answer may have been sent; up to then another one may be."""
        ...

    @property
    def close_code(self) -> int | None:
        """The code with which a WebSocket's peer closed it (RFC 6455 7.4), known when that has left."""
        ...

    def when_gone(self, call: Callable[[], None]) -> None:
        """Calls ``call()``, which must not block or raise, once: when the peer leaves before the answer is complete;
        at once where it has left already. A later call takes the place of an earlier one."""
        ...


def send_now_of(scope: Scope) -> SendNow | None:
    """None where the server, or its protocol, has no such way."""
    return getattr(peer_of(scope), "send_now", None)


def peer_of(scope: Scope) -> Peer | None:
    """None under a server that is not ours: there only ``receive`` tells."""
    return scope.get("extensions", {}).get(PEER)
