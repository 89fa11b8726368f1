"""Upstream servers on real sockets, as they behave and misbehave, and the views that ask them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore
import trio

from app.aggregate.hosts import Hosts
from app.aggregate.service import Aggregate, Request, open_aggregate
from app.aggregate.upstream import Upstream
from app.config.aggregate import AggregateSettings, SourceSettings
from app.config.file import read_config_file

# A test that takes longer hangs.
SECONDS = 30

type Behaviour = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """A request that an upstream has got. number: of all, from 1. connection: likewise."""

    server: UpstreamServer
    stream: trio.SocketStream
    number: int
    connection: int
    target: str
    fields: dict[str, str]

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(
        self, body: bytes = b"{}", status: int = 200, *fields: str, kind: str = "application/json"
    ) -> None:
        lines = [f"HTTP/1.1 {status} Said", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields, "", ""]
        await self.send("\r\n".join(lines).encode() + body)

    async def gone(self) -> None:
        """Returns once the other side has closed the connection."""
        with suppress(trio.BrokenResourceError):
            assert await self.stream.receive_some(1) == b""


@dataclass
class UpstreamServer:
    """asked: all requests so far. open: connections now; closed: that are no more."""

    port: int
    asked: list[Exchange] = field(default_factory=list[Exchange])
    open: int = 0
    opened: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def wait(self, met: Callable[[], bool]) -> None:
        """Until that is so."""
        with trio.fail_after(SECONDS):
            while not met():  # noqa: ASYNC110 - a socket's other end tells nobody else
                await trio.sleep(0.002)

    async def wait_frozen(self, met: Callable[[], bool]) -> None:
        """Likewise, where Trio's clock stands still."""
        for _ in range(100_000):
            if met():
                return
            await trio.lowlevel.checkpoint()
        raise AssertionError("it did not come about")

    async def settle(self) -> None:
        """Gives whatever could happen while the clock stands the chance to."""
        for _ in range(100):
            await trio.lowlevel.checkpoint()

    async def has_no_connection(self) -> None:
        await self.wait(lambda: self.open == 0)


@asynccontextmanager
async def upstream(behaviour: Behaviour) -> AsyncGenerator[UpstreamServer]:
    """Each request of each connection gets ``behaviour``, until that closes the stream."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = UpstreamServer(listener.socket.getsockname()[1])

    async def serve(stream: trio.SocketStream) -> None:
        server.open += 1
        server.opened += 1
        connection = server.opened
        buffered = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffered:
                    data = await stream.receive_some()
                    if not data:
                        return
                    buffered += data
                head, _, buffered = buffered.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                exchange = Exchange(server, stream, len(server.asked) + 1, connection, first.split()[1], fields)
                server.asked.append(exchange)
                await behaviour(exchange)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            server.open -= 1
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


def answering(value: object, status: int = 200, *fields: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(value).encode(), status, *fields)

    return behave


async def stall(exchange: Exchange) -> None:
    """Takes the request, and says nothing until the other side leaves."""
    await exchange.gone()
    await exchange.stream.aclose()


# -- views -------------------------------------------------------------------------------------------------------------


def settings_of(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> AggregateSettings:
    path = folder / "sluice.toml"
    path.write_text(text)
    config = read_config_file(str(path), environment)
    assert config.mistakes == ()
    return config.aggregate


def one_source(url: str, *lines: str, view: Sequence[str] = ()) -> str:
    """A view ``v`` with the source ``s``."""
    return "\n".join(
        ["[aggregate.v]", *view, "[aggregate.v.sources.s]", f"url = {json.dumps(url)}", "allow_private = true", *lines]
    )


def two_sources(first: str, second: str, *lines: str, view: Sequence[str] = ()) -> str:
    """``a``, with ``lines``, and ``b``."""
    of = '[aggregate.v.sources.{}]\nurl = "{}"\nallow_private = true\n'
    return "\n".join(["[aggregate.v]", *view, of.format("a", first), *lines, of.format("b", second)])


@asynccontextmanager
async def views(folder: Path, text: str, make: Callable[[SourceSettings, Hosts], Upstream] | None = None, **more: Any):
    settings = settings_of(folder, text, **more)
    async with open_aggregate(settings, make) as aggregate:
        yield aggregate


def request(view: str = "v", /, seconds: float = 60.0, fields: Any = (), **parameters: Any) -> Request:
    return Request(view, parameters, fields, seconds)


async def answer(aggregate: Aggregate, seconds: float = 60.0, **parameters: Any) -> Any:
    return json.loads(await aggregate.answer(request(seconds=seconds, **parameters)))


async def source(aggregate: Aggregate, **parameters: Any) -> Any:
    """What came of ``s``, without what differs from time to time."""
    told = json.loads(await aggregate.answer(request(**parameters)))["sources"]["s"]
    assert told.pop("ms") >= 0
    return told


class Redirected:
    """Connects to a port of this machine instead. to: where it was to connect."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._backend: Any = httpcore.TrioBackend()
        self.to: list[str] = []

    async def __call__(self, address: str, port: int) -> Any:
        self.to.append(address)
        return await self._backend.connect_tcp("127.0.0.1", self._port)
