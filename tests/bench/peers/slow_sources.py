"""``slow_sources.py SECONDS PORT…``: servers that answer each request with JSON so many seconds after it has come."""

from __future__ import annotations

import asyncio
import sys

_BODY = b'{"ok": true, "values": [1, 2, 3]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class Slow(asyncio.Protocol):
    """A connection, with one request at a time that has no body."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\r\n\r\n"):
            self._received = b""
            asyncio.get_running_loop().call_later(self._seconds, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


async def main(seconds: float, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: Slow(seconds), "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
