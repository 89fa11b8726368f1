"""Connections to upstreams: a name is resolved, its addresses are checked, and one of these very addresses is connected
to, so that no second look-up can lead elsewhere (DNS rebinding)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import cast

import httpcore
import trio

from app.aggregate.addresses import is_public
from app.flow.threads import ThreadPool

type Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
type Connect = Callable[[str, int], Awaitable[httpcore.AsyncNetworkStream]]

# How long one address may take before the next one is tried beside it (RFC 8305 5).
_STAGGER_SECONDS = 0.25
_MOST_ADDRESSES = 8
MOST_LOOK_UPS = 8


class Unresolved(Exception):
    """The name has no address."""


class ForbiddenAddress(Exception):
    """The name has an address that may not be called."""


class Unreachable(Exception):
    """Nobody takes connections there."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """What httpcore connects with. private_host: the one host whose addresses may be any.

    Bound: of a name's addresses the first `_MOST_ADDRESSES` are tried. ``look_ups`` threads, of its own, so that names
    that nobody answers for hold up no others; a look-up past that waits.

    *Cancellation*: ends the connecting; a look-up's thread is left to end by itself, and keeps its place until then.
    """

    def __init__(
        self,
        private_host: str | None = None,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        look_ups: int = MOST_LOOK_UPS,
    ) -> None:
        self._private_host = private_host
        self._resolve = resolve or partial(resolve_name, ThreadPool("names", look_ups))
        self._connect = connect or cast("httpcore.AsyncNetworkBackend", httpcore.TrioBackend()).connect_tcp

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's; the callers of ours have cancel scopes
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """*Errors*: Unresolved, ForbiddenAddress, Unreachable."""
        addresses = await self._resolve(host, port)
        if host != self._private_host and not all(map(is_public, addresses)):
            raise ForbiddenAddress(f"{host}: {', '.join(addresses)}")
        if len(addresses) == 1:
            return await self._connect_to(addresses[0], port)
        return await self._first(addresses[:_MOST_ADDRESSES], port)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def _connect_to(self, address: str, port: int) -> httpcore.AsyncNetworkStream:
        try:
            return _Connection(await self._connect(address, port))
        except (OSError, httpcore.ConnectError) as error:
            raise Unreachable(f"{address}: {error}") from error

    async def _first(self, addresses: Sequence[str], port: int) -> httpcore.AsyncNetworkStream:
        """The first connection that stands; each address has a head start before the next one (RFC 8305)."""
        won: list[httpcore.AsyncNetworkStream] = []
        failed = [trio.Event() for _ in addresses]
        reasons: list[str] = []

        async def attempt(number: int) -> None:
            try:
                stream = await self._connect_to(addresses[number], port)
            except Unreachable as error:
                reasons.append(str(error))
                failed[number].set()
                return
            if won:
                await stream.aclose()
            else:
                won.append(stream)
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                for number in range(len(addresses)):
                    nursery.start_soon(attempt, number)
                    with trio.move_on_after(_STAGGER_SECONDS):
                        await failed[number].wait()
        except BaseException:
            await _close_all(won)
            raise
        if not won:
            raise Unreachable("; ".join(reasons))
        return won[0]


class _Connection(httpcore.AsyncNetworkStream):
    """One that is closed also where a TLS handshake is cancelled, which httpcore leaves to the garbage collector."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self.read = stream.read
        self.write = stream.write
        self.aclose = stream.aclose
        self.get_extra_info = stream.get_extra_info

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
    ) -> httpcore.AsyncNetworkStream:
        """*Errors*: ConnectError of httpcore where TLS fails, ReadError where the connection ends in its handshake."""
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except httpcore.ConnectError as error:
            await _close_all([self._stream])
            if _is_of_tls(error):
                raise
            raise httpcore.ReadError("cut in its TLS handshake") from error
        except BaseException:
            await _close_all([self._stream])
            raise


def _is_of_tls(error: BaseException) -> bool:
    """Whether TLS itself has failed, and not the connection below it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return not isinstance(cause, ssl.SSLEOFError)
        cause = cause.__cause__ or cause.__context__
    return False


async def _close_all(streams: Sequence[httpcore.AsyncNetworkStream]) -> None:
    """Closing a socket takes no time."""
    with trio.CancelScope(shield=True):
        for stream in streams:
            await stream.aclose()


async def resolve_name(threads: ThreadPool, host: str, port: int) -> Sequence[str]:
    """The addresses of ``host``, each once, the preferred first. threads: for the look-up, where it is no address.

    *Errors*: Unresolved. *Cancellation*: leaves the look-up behind.
    """
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        try:
            found = look_up(flags=socket.AI_NUMERICHOST)  # asks nobody
        except socket.gaierror:
            found = await threads.run_or_abandon(look_up)
    except (OSError, UnicodeError) as error:
        raise Unresolved(f"{host}: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
