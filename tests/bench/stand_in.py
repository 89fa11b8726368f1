"""Servers of a few lines, for the loads to be tried against."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

type Serve = Callable[[socket.socket, int], object]
"""What a server does with a connection, whose request has a body of so many bytes; whether another one may follow."""

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTENT = bytes(range(256)) * 4000


@contextmanager
def serving(serve: Serve) -> Generator[int]:
    """The port where each request of each connection is served so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=_serve_all, args=(connection, serve)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def _serve_all(connection: socket.socket, serve: Serve) -> None:
    connection.settimeout(20)
    with connection, suppress(ConnectionError):
        head, more = b"", True
        while more and (part := connection.recv(1)):
            head += part
            if head.endswith(b"\r\n\r\n"):
                more = serve(connection, int(head.partition(b"Content-Length:")[2].split()[0]))
                head = b""


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def echo(connection: socket.socket, size: int) -> bool:
    connection.sendall(CHUNKED)
    while size:
        content = _receive(connection, size)
        size -= len(content)
        connection.sendall(chunk(content))
    connection.sendall(b"0\r\n\r\n")
    return True


def answering(answer: bytes) -> Serve:
    """Once all of the body is there."""

    def serve(connection: socket.socket, size: int) -> bool:
        swallow(connection, size)
        connection.sendall(answer)
        return True

    return serve


def swallow(connection: socket.socket, size: int) -> None:
    """What is left unread would make the end of the connection a reset, which may overtake what was sent."""
    while size:
        size -= len(_receive(connection, size))


def _receive(connection: socket.socket, most: int) -> bytes:
    content = connection.recv(min(most, 1 << 18))
    if not content:
        raise ConnectionAbortedError
    return content


def cut(connection: socket.socket, size: int) -> None:
    swallow(connection, size)
    connection.sendall(CHUNKED + chunk(b"some"))


def endless(connection: socket.socket, size: int) -> None:
    connection.sendall(CHUNKED)
    while True:
        connection.sendall(chunk(CONTENT))
