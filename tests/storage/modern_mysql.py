"""MySQL 8 as far as a client's first steps need it: a server that lets in by ``caching_sha2_password``, without TLS.

Source: MySQL's protocol documentation, "Connection Phase" and "Caching_sha2_password information".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from itertools import cycle
from pathlib import Path

import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from app.settings import DatabaseSettings

type Speak = Callable[[trio.SocketStream], Awaitable[None]]

_SALT = b"12345678abcdefghijkl"
_PLUGIN = b"caching_sha2_password\0"
_CAPABILITIES = 0x000F_F7DF  # all up to PLUGIN_AUTH, but TLS and compression
_OK = b"\x00\x00\x00\x02\x00\x00\x00"
_END = b"\xfe\x00\x00\x02\x00"
_FAST, _FULL = b"\x01\x03", b"\x01\x04"


@asynccontextmanager
async def serving(speak: Speak) -> AsyncGenerator[DatabaseSettings]:
    """A server that does ``speak`` with each connection; the settings that reach it."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, EOFError):  # the client left
                await speak(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield DatabaseSettings("127.0.0.1", port, "ada", "secret", "reports", None, 2, Path("unused"))
        nursery.cancel_scope.cancel()


def modern_mysql(password: str, heard: list[bytes], *, cached: bool = True) -> Speak:
    """Answers each query with a 1. ``heard``: the queries. ``cached``: whether the password's hash is known already,
    so that a scramble is enough; otherwise the password itself is asked for, encrypted."""

    async def speak(stream: trio.SocketStream) -> None:
        await _send(stream, 0, _greeting())
        number, answer = await _receive(stream)
        scramble = _scrambled(password.encode())
        right = scramble in answer
        if _PLUGIN not in answer:
            await _send(stream, number + 1, b"\xfe" + _PLUGIN + _SALT + b"\0")
            number, answer = await _receive(stream)
            right = answer == scramble
        if cached and right:
            await _send(stream, number + 1, _FAST)
        else:
            await _send(stream, number + 1, _FULL)
            number, sent = await _clear_password(stream)
            if sent != password.encode() + b"\0":
                await _send(stream, number + 1, b"\xff\x15\x04#28000Access denied")
                return
            number -= 1
        await _send(stream, number + 2, _OK)
        await _answer_queries(stream, heard)

    return speak


async def _clear_password(stream: trio.SocketStream) -> tuple[int, bytes]:
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    number, asked = await _receive(stream)
    assert asked == b"\x02"
    await _send(stream, number + 1, b"\x01" + public)
    number, encrypted = await _receive(stream)
    mixed = key.decrypt(encrypted, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))
    return number, bytes(a ^ b for a, b in zip(mixed, cycle(_SALT), strict=False))


async def _answer_queries(stream: trio.SocketStream, heard: list[bytes]) -> None:
    column = b"\x03def\0\0\0\x011\0\x0c\x3f\0\x01\0\0\0\x03\0\0\0\0\0"
    while (command := (await _receive(stream))[1])[:1] == b"\x03":
        heard.append(command[1:])
        for number, packet in enumerate((b"\x01", column, _END, b"\x011", _END), 1):
            await _send(stream, number, packet)


def _greeting() -> bytes:
    low, high = (_CAPABILITIES & 0xFFFF).to_bytes(2, "little"), (_CAPABILITIES >> 16).to_bytes(2, "little")
    start = b"\x0a8.4.0\0" + (7).to_bytes(4, "little") + _SALT[:8] + b"\0" + low + b"\xff\x02\0" + high
    return start + b"\x15" + bytes(10) + _SALT[8:] + b"\0" + _PLUGIN


def _scrambled(password: bytes) -> bytes:
    once = sha256(password).digest()
    mask = sha256(sha256(once).digest() + _SALT).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


async def _send(stream: trio.SocketStream, number: int, payload: bytes) -> None:
    await stream.send_all(len(payload).to_bytes(3, "little") + bytes([number]) + payload)


async def _receive(stream: trio.SocketStream) -> tuple[int, bytes]:
    head = await _exactly(stream, 4)
    return head[3], await _exactly(stream, int.from_bytes(head[:3], "little"))


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
