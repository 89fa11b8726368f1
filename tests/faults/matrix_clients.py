"""The clients of the cancellation matrix: one request each, over blocking sockets, read only to shake hands."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import h2.config
import h2.connection
import h2.settings
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request

_SECONDS = 10
# Small, so that what is not read soon holds the server back.
_RECEIVE_BUFFER = 32 * 1024
# Of an upload: it reaches the server's kernel whole, also where the route takes no more than the first piece.
_PIECE = bytes(48 * 1024)
_UPLOAD = 10 * 1024 * 1024
_LARGEST_WINDOW = 2**31 - 1


@dataclass(frozen=True)
class Ports:
    cleartext: int
    secure: int
    authority: Path


class Client:
    """A client in one situation. odd: every other one of a kind, whose request is a variant of the others'.
    asked: when it sent its request."""

    def __init__(self, ports: Ports, situation: str, name: str, *, odd: bool, deadline: float | None) -> None:
        self.name = name
        self._situation = situation
        self._odd = odd
        self._target = f"/{situation}?takes={'all' if odd else 'one'}"
        self._fields = [("x-request-id", name)]
        if deadline is not None:
            self._fields.append(("sluice-deadline", f"{deadline:g}"))
        self._socket = self._connect(ports)
        self.asked = time.monotonic()
        self._ask()

    def _connect(self, ports: Ports) -> socket.socket:
        return self._open(ports.cleartext)

    @staticmethod
    def _open(port: int) -> socket.socket:
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.settimeout(_SECONDS)
        opened.connect(("127.0.0.1", port))
        return opened

    @abstractmethod
    def _ask(self) -> None: ...

    def once_there(self) -> None:
        """What is sent once the route is where it shall be ended."""

    def closes(self) -> None:
        """A FIN. (Not by `close`, which resets where there is something unread.)"""
        self._socket.shutdown(socket.SHUT_WR)

    def resets(self) -> None:
        """An RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


class Http1(Client):
    """odd, in mid-upload: the route waits for more; else there is more, which it does not take."""

    def _ask(self) -> None:
        self._socket.sendall(self._request(_UPLOAD, b"" if self._odd else _PIECE))

    def _request(self, length: int, more: bytes) -> bytes:
        upload = self._situation == "upload"
        fields = [("host", "sluice"), *self._fields, *([("content-length", f"{length}")] if upload else [])]
        method = "POST" if upload else "GET"
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{method} {self._target} HTTP/1.1\r\n{head}\r\n".encode() + (_PIECE + more if upload else b"")


class Pipelined(Http1):
    """A further request lies behind this one. odd: it comes when this one has begun, and is not read.

    In mid-upload it lies behind the rest of a body that was sent whole, and of which the route takes the first piece.
    """

    _BEHIND = b"GET /behind HTTP/1.1\r\nHost: sluice\r\n\r\n"

    def _ask(self) -> None:
        self._target = self._target.replace("all", "one")
        self._socket.sendall(self._request(2 * len(_PIECE), _PIECE) + (b"" if self._odd else self._BEHIND))

    def once_there(self) -> None:
        if self._odd:
            self._socket.sendall(self._BEHIND)


class Tls(Http1):
    def _connect(self, ports: Ports) -> socket.socket:
        context = ssl.create_default_context(cafile=str(ports.authority))
        context.set_alpn_protocols(self._protocols)
        return context.wrap_socket(self._open(ports.secure), server_hostname="127.0.0.1")

    _protocols = ("http/1.1",)


class Http2(Tls):
    """odd, in mid-download: it gives all the credit there is, and TCP holds the server back; else the credit does."""

    _protocols = ("h2",)

    def _ask(self) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        if self._odd:
            connection.local_settings = h2.settings.Settings(
                client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW}
            )
        connection.initiate_connection()
        if self._odd:
            connection.increment_flow_control_window(_LARGEST_WINDOW - 65535)
        upload = self._situation == "upload"
        head = [(":method", "POST" if upload else "GET"), (":path", self._target), (":scheme", "https")]
        connection.send_headers(1, [*head, (":authority", "sluice"), *self._fields], end_stream=not upload)
        if upload:
            size = connection.max_outbound_frame_size
            for start in range(0, len(_PIECE), size):
                connection.send_data(1, _PIECE[start : start + size])
        self._connection = connection
        self._socket.sendall(connection.data_to_send())

    def resets_stream(self) -> None:
        """RST_STREAM; the connection stays."""
        self._connection.reset_stream(1)
        self._socket.sendall(self._connection.data_to_send())


class WebSocket(Client):
    """odd, in mid-upload: the route takes all that comes, and waits for more; else more comes than is held for it."""

    def _ask(self) -> None:
        connection = WSConnection(ConnectionType.CLIENT)
        fields = [(name.encode(), value.encode()) for name, value in self._fields]
        self._socket.sendall(connection.send(Request("sluice", self._target, extra_headers=fields)))
        if self._situation != "upload":
            return
        while not any(isinstance(event, AcceptConnection) for event in connection.events()):
            connection.receive_data(self._socket.recv(4096))
        for _ in range(2 if self._odd else 12):
            self._socket.sendall(connection.send(BytesMessage(_PIECE[: 8 * 1024])))


PROTOCOLS: dict[str, type[Client]] = {
    "HTTP/1.1": Http1,
    "HTTP/1.1 pipelined": Pipelined,
    "TLS": Tls,
    "HTTP/2": Http2,
    "WebSocket": WebSocket,
}
