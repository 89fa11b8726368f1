"""One connection to MySQL: the only file that knows trio-mysql, its private parts included, and its errors."""

from __future__ import annotations

import os
import ssl
import struct
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, cast

import trio
import trio_mysql.connections  # pyright: ignore[reportMissingTypeStubs]
import trio_mysql.cursors  # pyright: ignore[reportMissingTypeStubs]
from trio_mysql import _auth as _untyped_auth  # pyright: ignore[reportMissingTypeStubs]
from trio_mysql import err
from trio_mysql.constants import CLIENT, COMMAND, CR, ER  # pyright: ignore[reportMissingTypeStubs]
from trio_mysql.protocol import FieldDescriptorPacket, MysqlPacket  # pyright: ignore[reportMissingTypeStubs]

from app.errors import DatabaseUnavailable, DuplicateKey, InsufficientStorage, QueryFailed
from app.flow.histograms import Histogram
from app.settings import DatabaseSettings
from app.storage.database import Rows, Scalar
from app.storage.mysql_rows import Shape, shape_of
from app.storage.query_spans import query_span

CONNECT_SECONDS = 5.0
_auth: Any = _untyped_auth
# Of a packet: its length, little-endian, and its number. One of the longest goes on in the next.
_HEADER_BYTES = 4
_LONGEST = 0xFFFFFF
_ERROR = 0xFF
_READ_BYTES = 64 * 1024
_MOST_SHAPES = 8
_QUIT_SECONDS = 0.5
_UNAVAILABLE = "the database cannot be asked now"

# What the server says when time, not the statement, is the matter: full, stopping, locked, interrupted.
_PASSING_CODES = {
    ER.CON_COUNT_ERROR,
    ER.TOO_MANY_USER_CONNECTIONS,
    ER.USER_LIMIT_REACHED,
    ER.SERVER_SHUTDOWN,
    ER.LOCK_WAIT_TIMEOUT,
    ER.LOCK_DEADLOCK,
    ER.QUERY_INTERRUPTED,
    1927,  # MariaDB: connection was killed
    1969,  # MariaDB: max_statement_time exceeded
    3024,  # MySQL: max_execution_time exceeded
}

_FULL_CODES = {ER.DISK_FULL, ER.RECORD_FILE_FULL}


class _CachingSha2:
    """MySQL 8's default authentication. The driver has it too, but forgets to await half of its own coroutines.

    Source: MySQL's internals, "Caching_sha2_password".
    """

    _NONCE_BYTES = 20
    _FAST, _FULL = 3, 4

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def authenticate(self, packet: Any) -> Any:
        """Answers the server's request to switch to this method; the packet that lets us in."""
        password = cast("bytes", self._driver.password)
        if not password:
            return await _auth._roundtrip(self._driver, b"")
        nonce = packet.read_all()[: self._NONCE_BYTES]
        packet = await _auth._roundtrip(self._driver, _auth.scramble_caching_sha2(password, nonce))
        if not packet.is_extra_auth_data():
            return packet
        packet.advance(1)
        state = packet.read_uint8()
        if state == self._FAST:
            packet = await self._driver._read_packet()
            packet.check_error()
            return packet
        if state != self._FULL:
            raise err.OperationalError(CR.CR_SERVER_HANDSHAKE_ERR, f"unknown state {state} of authentication")
        if self._driver._secure:
            return await _auth._roundtrip(self._driver, password + b"\0")
        key = (await _auth._roundtrip(self._driver, b"\x02"))._data[1:]
        return await _auth._roundtrip(self._driver, _auth.sha2_rsa_encrypt(password, nonce, key))


@lru_cache(maxsize=512)
def _descriptor(payload: bytes, encoding: str) -> Any:
    """What a column of an answer is. The same queries come again and again, and so do their columns."""
    return FieldDescriptorPacket(payload, encoding)


class _Driver(trio_mysql.connections.Connection):  # pyright: ignore[reportUntypedBaseClass]
    """The driver, made to insist on TLS where it was asked for, on a way of authentication that works, and to take a
    packet that has come already without waiting for it: nearly all of an answer's."""

    # Bound: `_MOST_SHAPES`, the newest.
    _shapes: Sequence[Shape] = ()

    async def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        self_: Any = self
        came, start = self_._rbuf, self_._rbuf_offset + _HEADER_BYTES
        if len(came) >= start:
            size = int.from_bytes(came[start - _HEADER_BYTES : start - 1], "little")
            whole = size < _LONGEST and len(came) >= start + size
            if whole and came[start - 1] == self_._next_seq_id:
                payload = bytes(came[start : start + size])
                self_._rbuf_offset = start + size
                self_._next_seq_id = (self_._next_seq_id + 1) % 256
                if packet_type is FieldDescriptorPacket and payload[0] != _ERROR:
                    return _descriptor(payload, self_.encoding)
                packet = packet_type(payload, self_.encoding)
                packet.check_error()
                return packet
        return await super()._read_packet(packet_type)  # pyright: ignore[reportUnknownMemberType]

    async def rows(self, sql: str) -> Rows:
        """All rows of a query, whose answer has mostly come whole with the first read, and in a shape that is known."""
        self_: Any = self
        fresh = self_._rbuf_offset == len(self_._rbuf)
        await self_._execute_command(COMMAND.COM_QUERY, sql.encode(self_.encoding, "surrogateescape"))
        answer = await self._receive() if fresh else b""
        for shape in self._shapes:
            if (rows := shape.rows(answer)) is not None:
                return rows
        if fresh:
            self_._rbuf, self_._rbuf_offset = bytearray(answer), 0
        await self_._read_query_result()
        rows = cast("Rows", list(self_._result.rows or ()))
        if self_._result.field_count and (shape := shape_of(answer, self_._result.converters, rows)):
            self._shapes = [shape, *self._shapes[: _MOST_SHAPES - 1]]
        return rows

    @property
    def _descriptor(self) -> int | None:
        """The socket's, where what it carries is not encrypted."""
        stream: Any = cast("Any", self)._sock
        return stream.socket.fileno() if isinstance(stream, trio.SocketStream) else None

    async def _receive(self) -> bytes:
        """What comes next; empty at the end."""
        if (descriptor := self._descriptor) is None:
            return bytes(await cast("Any", self)._sock.receive_some(_READ_BYTES))
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            with suppress(BlockingIOError):
                return os.read(descriptor, _READ_BYTES)

    async def _write_bytes(self, data: bytes) -> None:
        """(There is nearly always room for a statement, and a checkpoint where its answer is awaited.)"""
        sent = 0
        if (descriptor := self._descriptor) is not None:
            with suppress(BlockingIOError):
                sent = os.write(descriptor, data)
        if sent < len(data):
            await super()._write_bytes(data[sent:])  # pyright: ignore[reportUnknownMemberType]

    async def _request_authentication(self) -> None:
        self_: Any = self
        if self_.ssl and not self_.server_capabilities & CLIENT.SSL:
            raise err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server does not offer TLS")
        if self_._auth_plugin_name in {"caching_sha2_password", "sha256_password"}:
            # The driver does not await these when they come first. The server asks for what it wants instead.
            self_._auth_plugin_name = "mysql_native_password"
        await super()._request_authentication()  # pyright: ignore[reportUnknownMemberType]


class _Cursor(trio_mysql.cursors.Cursor):  # pyright: ignore[reportUntypedBaseClass]
    # Otherwise a statement with warnings costs a second one that fetches them, for Python's warnings.
    _defer_warnings = True


class _StreamingCursor(trio_mysql.cursors.SSCursor):  # pyright: ignore[reportUntypedBaseClass]
    async def _show_warnings(self) -> None:
        """Likewise; this cursor would fetch them whatever is deferred, also those of the statement before its own."""


class MysqlConnection:
    """A connection used by one task at a time.

    thread_id: how the server calls it. opened: when, in Trio's time.
    running: a statement was sent and its answer has not been read to the end: so after a cancellation, or a stream
        that was left early; the server has to be told.
    broken: nothing more can be asked. Either makes it of no more use.
    """

    def __init__(self, raw: Any, stream: trio.SocketStream, times: Histogram) -> None:
        self._raw = raw
        self._times = times
        # The driver forgets its stream, unclosed, when anything goes wrong while it reads.
        self._stream = stream
        self.thread_id: int = raw.thread_id()
        self.opened = trio.current_time()
        self.running = False
        self.broken = False

    async def fetch(self, sql: str, parameters: Sequence[Scalar] = ()) -> Rows:
        with query_span("mysql", sql), self._statement():
            text = self._raw.cursor(_Cursor).mogrify(_placeholders(sql), tuple(parameters))
            return cast("Rows", await self._raw.rows(text))

    async def execute(self, sql: str, parameters: Sequence[Scalar] = ()) -> int:
        with query_span("mysql", sql), self._statement():
            return cast("int", await self._raw.cursor(_Cursor).execute(_placeholders(sql), tuple(parameters)))

    async def open_cursor(self, sql: str, parameters: Sequence[Scalar]) -> Callable[[int], Any]:
        """Starts a query whose rows stay on the server; returns an async ``fetchmany(size)``."""
        cursor = self._raw.cursor(_StreamingCursor)
        with self._statement():
            await cursor.execute(_placeholders(sql), tuple(parameters))
        self.running = True
        return cursor.fetchmany

    async def next_batch(self, fetchmany: Callable[[int], Any], size: int) -> Rows:
        """The next rows; none at the end, where the connection is of use again."""
        with self._statement():
            rows = cast("Rows", list(await fetchmany(size)))
        self.running = bool(rows)
        return rows

    def is_alive(self) -> bool:
        """Whether an idle connection looks sound: nothing to read, not even the end that a closing server leaves."""
        try:
            return not self._stream.socket.is_readable()
        except (OSError, ValueError):
            return False  # closed on our side

    async def aclose(self) -> None:
        """Says goodbye, for `_QUIT_SECONDS` at most, and closes. *Cancellation*: closes at once."""
        try:
            with trio.move_on_after(_QUIT_SECONDS):
                await self._raw.aclose()
        finally:
            self.close()

    def close(self) -> None:
        """Closes the socket at once; idempotent."""
        result = self._raw._result
        if result is not None and result.unbuffered_active:
            # Otherwise the driver raises from a finalizer.
            result.unbuffered_active = False
            result.connection = None
        self._raw._sock = None
        self._raw._closed = True
        self._stream.socket.close()

    @contextmanager
    def _statement(self) -> Generator[None]:
        self.running = True
        began = trio.current_time()
        try:
            with _mapped_errors():
                yield
        except QueryFailed:
            self.running = False
            raise
        except DatabaseUnavailable:
            self.running, self.broken = False, True
            raise
        finally:
            self._times.observe(trio.current_time() - began)
        self.running = False


async def connect(
    settings: DatabaseSettings, tls: ssl.SSLContext | None, times: Histogram | None = None
) -> MysqlConnection:
    """A new connection, in autocommit mode and UTF-8. times: takes the seconds of each statement, and of each batch.

    *Cancellation*: leaves nothing open. *Errors*: DatabaseUnavailable, with the reason in ``internal``, where the
    server is away, full, or refuses us; also after `CONNECT_SECONDS`.
    """
    raw: Any = _Driver(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        # The driver would encode a text as Latin-1.
        password=cast("Any", settings.password.encode()),
        database=settings.name,
        charset="utf8mb4",
        use_unicode=True,
        autocommit=True,
        # A row that an UPDATE finds as it is to be counts as touched, as in SQLite.
        client_flag=CLIENT.FOUND_ROWS,
        ssl=tls,
        auth_plugin_map={b"caching_sha2_password": _CachingSha2},
        program_name="sluice",
    )
    with trio.move_on_after(CONNECT_SECONDS), _mapped_errors(connecting=True):
        # The driver leaks the socket of a failed connect; so the socket is ours.
        stream = await trio.open_tcp_stream(cast("str", settings.host), settings.port)
        try:
            await raw.connect(sock=stream)
        except (struct.error, ValueError, LookupError, AssertionError) as error:
            stream.socket.close()
            raise err.OperationalError(CR.CR_VERSION_ERROR, "what answers there is no MySQL server") from error
        except BaseException:
            stream.socket.close()
            raise
        return MysqlConnection(raw, stream, Histogram() if times is None else times)
    raise DatabaseUnavailable(_UNAVAILABLE, retry_after=1, internal=f"no connection within {CONNECT_SECONDS:g} s")


def tls_context(settings: DatabaseSettings) -> ssl.SSLContext | None:
    """Certificates and host name are verified against the given authority; None where no authority is given."""
    return None if settings.tls_ca is None else ssl.create_default_context(cafile=str(settings.tls_ca))


@lru_cache(maxsize=1024)
def _placeholders(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@contextmanager
def _mapped_errors(*, connecting: bool = False) -> Generator[None]:
    try:
        yield
    except err.MySQLError as error:
        raise _translated(error, connecting=connecting) from error
    except UnicodeEncodeError as error:
        raise QueryFailed("a text cannot be stored in the database", internal=str(error)) from error
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise DatabaseUnavailable(_UNAVAILABLE, retry_after=1, internal=f"connection lost: {_why(error)}") from error


def _translated(error: Exception, *, connecting: bool) -> DatabaseUnavailable | InsufficientStorage | QueryFailed:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else None
    words = ": ".join(str(arg) for arg in error.args) or type(error).__name__
    # Client codes are 2000 to 2999: no answer came. Without a code the driver itself found the connection unusable.
    if code is None or 2000 <= code < 3000 or code in _PASSING_CODES:
        return DatabaseUnavailable(_UNAVAILABLE, retry_after=1, internal=words)
    if connecting:  # we are not let in: wrong password, no such database, account locked
        return DatabaseUnavailable(_UNAVAILABLE, retry_after=5, internal=f"refused: {words}")
    if code in _FULL_CODES:
        return InsufficientStorage("there is no room in the database", internal=words)
    kind = DuplicateKey if code == ER.DUP_ENTRY else QueryFailed
    return kind("the database refused a statement", internal=words)


def _why(error: BaseException) -> str:
    """The words of ``error``, and of what caused it: a TLS failure, or that of the last address that was tried."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseException", cause.exceptions[-1])
    return ": ".join(dict.fromkeys(words for words in (str(error), str(cause or "")) if words))
