"""One call to an upstream, by httpcore: what comes of it is a value."""

from __future__ import annotations

import math
import ssl
import time
from dataclasses import dataclass

import httpcore
import trio

from app.aggregate.connections import Connections
from app.aggregate.hosts import MOST_PER_HOST, HostBusy, Hosts
from app.aggregate.json_values import NoMatch, NotJson, json_value
from app.aggregate.network import MOST_LOOK_UPS, CheckedNetwork, ForbiddenAddress, Unreachable, Unresolved
from app.aggregate.redirects import MOST_REDIRECTS, REDIRECTS, Fields, fields_for, follow
from app.aggregate.retries import may_pass
from app.config.aggregate import IDEMPOTENT, SourceSettings
from app.flow.spans import Attributes, Nothing, Span, span
from app.http.retry_after import parse_retry_after

# A body that nobody wants is read, so that its connection stays, where it is small and there.
_DRAINED_BYTES = 16 * 1024
_DRAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Failure:
    """reason: in a word, for the client. blames: whether it is the upstream's fault; None where it says nothing of it.

    may_pass: whether another try makes sense; retry_after: in so many seconds. denies: whether the upstream says that
    there is no such value, or not for us, which is no error of its own (RFC 5861 4).
    """

    reason: str
    blames: bool | None = None
    may_pass: bool = False
    retry_after: float | None = None
    denies: bool = False


# Of what is raised on the way the first kind that it is.
_RAISED: dict[type[Exception], Failure] = {
    HostBusy: Failure("overloaded"),
    ForbiddenAddress: Failure("forbidden-address"),
    Unresolved: Failure("unresolved", blames=True, may_pass=True),
    Unreachable: Failure("refused", blames=True, may_pass=True),
    httpcore.ConnectError: Failure("tls", blames=True),
    httpcore.NetworkError: Failure("cut", blames=True, may_pass=True),
    httpcore.RemoteProtocolError: Failure("cut", blames=True, may_pass=True),
}


class Upstream:
    """What a source calls. Its connections are its own, so that what one source may call, no other reaches by them.

    hosts: whose permits each call takes. network, tls: what to connect with. look_ups: of names, at once.

    Bound: of a body ``max_bytes`` and what one read brings; `MOST_PER_HOST` idle connections.
    """

    def __init__(
        self,
        settings: SourceSettings,
        hosts: Hosts,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
        look_ups: int = MOST_LOOK_UPS,
    ) -> None:
        url, names = settings.url, {header.name for header in settings.headers}
        self._settings = settings
        self._hosts = hosts
        network = network or CheckedNetwork(url.host if settings.allow_private else None, look_ups=look_ups)
        self._connections = Connections(network, tls, MOST_PER_HOST)
        self._method, self._scheme, self._host = settings.method, url.scheme, url.host
        self._fields: Fields = (
            (b"host", url.authority.encode()),
            (b"accept", b"application/json"),
            # What is compressed may become any size.
            (b"accept-encoding", b"identity"),
            *(() if "user-agent" in names else ((b"user-agent", b"sluice"),)),
            *((header.name.encode(), header.value.encode("latin-1")) for header in settings.headers),
            *(() if settings.method in {"GET", "DELETE"} else ((b"content-length", b"0"),)),
        )

    async def call(self, target: str, fields: Fields) -> bytes | Failure:
        """Calls for ``target`` and gives the value, or why there is none.

        fields: in addition to the source's own. *Cancellation*: closes the call's connection.
        """
        url = httpcore.URL(scheme=self._scheme, host=self._host, port=self._settings.url.port, target=target)
        fields = (*self._fields, *fields)
        try:
            for _ in range(MOST_REDIRECTS + 1):
                found = await self._exchange(url, fields)
                if not isinstance(found, httpcore.URL):
                    return found
                fields = fields_for(fields, url, found)
                url = found
        except tuple(_RAISED) as error:
            return next(failure for kind, failure in _RAISED.items() if isinstance(error, kind))
        return Failure("too-many-redirects", blames=False)

    async def close(self) -> None:
        await self._connections.close()

    async def _exchange(self, url: httpcore.URL, fields: Fields) -> bytes | Failure | httpcore.URL:
        """The value, why there is none, or where to ask instead."""
        with span(self._method, kind="client") as call:
            if isinstance(call, Span):
                call.attributes |= _said(self._method, url)
                fields = (*((name, value) for name, value in fields if name != b"traceparent"), _traceparent(call))
            found = await self._exchanged(url, fields, call)
            if isinstance(found, Failure) and isinstance(call, Span):
                call.failed(found.reason)
            return found

    async def _exchanged(
        self, url: httpcore.URL, fields: Fields, call: Span | Nothing
    ) -> bytes | Failure | httpcore.URL:
        host = f"{url.host.decode()}:{url.origin.port}"
        again = self._method in IDEMPOTENT
        async with self._hosts.permit(host):
            request = httpcore.Request(self._method, url, headers=(*fields, *_time_left()))
            async with self._connections.response(request, again=again) as response:
                call.say(http__response__status_code=response.status)
                if 200 <= response.status < 300:
                    return await self._value(response)
                await _drain(response)
                location = _fields_of(response).get(b"location")
                if response.status in REDIRECTS and self._method == "GET" and location is not None:
                    return follow(url, location) or Failure("bad-redirect", blames=False)
                return self._refusal(response)

    async def _value(self, response: httpcore.Response) -> bytes | Failure:
        if response.status in {204, 205}:
            await _drain(response)
            return b"null"
        fields, most = _fields_of(response), self._settings.max_bytes
        if not _may_be_json(fields):
            return Failure("not-json", blames=False)
        length = fields.get(b"content-length", b"")
        body = None if length.isdigit() and int(length) > most else await _read(response, most)
        return Failure("too-large", blames=False) if body is None else self._cut_out(body)

    def _cut_out(self, body: bytearray) -> bytes | Failure:
        try:
            return json_value(body, self._settings.select)
        except NotJson:
            return Failure("not-json", blames=False)
        except NoMatch:
            return Failure("no-match", blames=False)

    def _refusal(self, response: httpcore.Response) -> Failure:
        said = _fields_of(response).get(b"retry-after")
        retry_after = None if said is None else parse_retry_after(said.decode("latin-1"), time.time())
        breaker = self._settings.breaker
        blames = response.status >= 500 if breaker is None else breaker.counts(response.status)
        passing = may_pass(response.status)
        denies = 400 <= response.status < 500 and not passing
        return Failure(f"status {response.status}", blames, passing, retry_after, denies)


def _time_left() -> Fields:
    """What the call's deadline leaves once it has its permit."""
    seconds = trio.current_effective_deadline() - trio.current_time()
    return () if seconds == math.inf else ((b"sluice-deadline", b"%.3f" % max(seconds, 0.001)),)


def _said(method: str, url: httpcore.URL) -> Attributes:
    """Of a call, by OpenTelemetry's semantic conventions for HTTP clients. Queries may hold secrets."""
    path = url.target.partition(b"?")[0].decode("latin-1")
    return {
        "http.request.method": method,
        "server.address": url.host.decode(),
        "server.port": url.origin.port,
        "url.full": f"{url.scheme.decode()}://{url.host.decode()}:{url.origin.port}{path}",
    }


def _traceparent(call: Span) -> tuple[bytes, bytes]:
    return (b"traceparent", call.traceparent.encode())


def _fields_of(response: httpcore.Response) -> dict[bytes, bytes]:
    return {name.lower(): value.strip() for name, value in response.headers}


def _may_be_json(fields: dict[bytes, bytes]) -> bool:
    """What does not say what it is may be."""
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        return False
    essence = fields.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    return essence == b"application/json" or essence.endswith(b"+json")


async def _read(response: httpcore.Response, most: int) -> bytearray | None:
    """The body; None where it is larger, and then its connection is closed."""
    body = bytearray()
    with trio.CancelScope() as scope:
        async for part in response.aiter_stream():
            if len(body) + len(part) > most:
                # Cancelled where it reads next, all of httpcore ends in order; left, its generators would not.
                scope.cancel()
            else:
                body += part
    return None if scope.cancel_called else body


async def _drain(response: httpcore.Response) -> None:
    with trio.move_on_after(_DRAIN_SECONDS):
        await _read(response, _DRAINED_BYTES)
