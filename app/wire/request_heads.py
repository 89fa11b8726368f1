"""The head of a request (RFC 9112 3, 5): its bytes in, what they say out. Pure.

A head is accepted only where two parsers agree on it: the strict patterns below and llhttp (``httptools``). The
patterns say what is well-formed, llhttp yields the fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote

import httptools

from app.errors import BadRequest, HeadTooLarge, NotImplementedHere, VersionNotSupported
from app.wire.fields import (
    SECTION_PATTERN,
    TIDY_SECTION_PATTERN,
    TOKEN,
    Field,
    parse_section,
    refuse_section,
    refuse_stray,
    shown,
)

# VCHAR without "#": a fragment is the client's own (RFC 9110 4.2.5). The origin form is taken apart on the way.
_TARGET = rb"((/[\x21\x22\x24-\x3e\x40-\x7e]*+)(?:\?([\x21\x22\x24-\x7e]*+))?+|[\x21\x22\x24-\x7e]++)"
_LINE = rb"(" + TOKEN + rb") " + _TARGET + rb" HTTP/"
_HEAD = re.compile(_LINE + rb"1\.([0-9])\r\n" + SECTION_PATTERN)
_TIDY_HEAD = re.compile(_LINE + rb"1\.([0-9])\r\n" + TIDY_SECTION_PATTERN)
_REQUEST_LINE = re.compile(_LINE + rb"([0-9])\.[0-9]\r\n")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]++)(/[^?]*+)?+(?:\?(.*+))?+")
# uri-host [ ":" port ] (RFC 9110 7.2), without the comma that RFC 3986 allows in names: it would look like two hosts.
_NAME = rb"(?:[0-9A-Za-z._~!$&'()*+;=-]++|%[0-9A-Fa-f]{2})++"
HOST = re.compile(rb"(?:" + _NAME + rb"|\[[0-9A-Fa-f:.]++(?:%[0-9A-Za-z._~%-]++)?+\])(?::[0-9]{0,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")

# The fields that say where the message ends and how the connection goes on.
_TELLING = frozenset((b"connection", b"content-length", b"expect", b"host", b"te", b"transfer-encoding", b"upgrade"))
_KEEP_ALIVE = frozenset((b"keep-alive", b"Keep-Alive"))
_SINGLE = frozenset((b"content-length", b"host", b"transfer-encoding"))

# Of RequestHead: content_length, chunked, keep_alive, expects_continue, upgrade, wants_trailers.
type _Told = tuple[int | None, bool, bool, bool, bytes | None, bool]
_PLAIN: _Told = (None, False, True, False, None, False)


@dataclass(slots=True)
class RequestHead:
    """A request line and its fields, and what they say about the body and the connection.

    Not to be changed; a frozen dataclass would take five times as long to make.

    method: as sent; methods are case-sensitive.
    raw_path: path of the target, percent-encoded, without the query; b"*" for ``OPTIONS *``.
    path: ``raw_path`` decoded, as UTF-8 with replacement characters.
    query: without its question mark; b"" where there is none.
    version: "1.0", or "1.1" for any later minor version.
    headers: in their order, names in lower case, values without the white space around them. In absolute form,
        ``host`` is that of the target (RFC 9112 3.2.2).
    content_length: bytes, or None without such a field; then there is a body only where ``chunked``.
    keep_alive: whether the client wants to go on after this exchange (RFC 9112 9.3).
    expects_continue: whether it waits for 100 before it sends the body (RFC 9110 10.1.1).
    upgrade: the protocols asked for, in lower case, where ``Connection`` names the field (RFC 9110 7.8).
    wants_trailers: whether it takes trailers (RFC 9110 10.1.4).
    """

    method: str
    raw_path: bytes
    path: str
    query: bytes
    version: str
    headers: list[Field]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    upgrade: bytes | None
    wants_trailers: bool


class HeadParser:
    """The heads of one connection, one after the other.

    max_fields: of one head.
    """

    __slots__ = ("_llhttp", "_max_fields")

    def __init__(self, max_fields: int) -> None:
        self._max_fields = max_fields
        self._llhttp = _Llhttp()

    def parse(self, raw: bytes) -> RequestHead:
        """What ``raw`` says, a head from its request line to its empty line.

        Errors: BadRequest, HeadTooLarge, NotImplementedHere, VersionNotSupported.
        """
        line = tidy = _TIDY_HEAD.fullmatch(raw)
        if line is None:
            line = _HEAD.fullmatch(raw)
        if line is None:
            _refuse(raw)
        count = raw.count(b"\r\n") - 2
        if count > self._max_fields:
            raise HeadTooLarge(f"the head has more than {self._max_fields} fields")
        method, target, raw_path, query, minor = line.groups()
        authority = None
        if raw_path is None or method == b"CONNECT":
            raw_path, query, authority = _other_form(method, target)
        # llhttp knows no later minor version; such a message is to be read as 1.1 (RFC 9110 2.5).
        known = raw if minor <= b"1" else raw[: line.start(5)] + b"1" + raw[line.end(5) :]
        version = "1.0" if minor == b"0" else "1.1"
        try:
            fields = self._llhttp.fields(known, target, count)
        except BadRequest:
            _told(parse_section(raw[raw.index(b"\r\n") + 2 :]), version)  # may say better what is wrong
            raise
        if tidy is None:
            fields = [(name, value.rstrip(b" \t")) for name, value in fields]
        told = _told(fields, version)
        if told is not _PLAIN:
            self._llhttp.forget()
        if authority is not None:
            _replace_host(fields, authority)
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        return RequestHead(method.decode("ascii"), raw_path, path, query or b"", version, fields, *told)


class _Llhttp:
    """llhttp on whole heads. A parser is used again unless the head says that something else than a head follows."""

    __slots__ = ("_heard", "_parser")

    def __init__(self) -> None:
        self._heard = _Heard()
        self._parser: httptools.HttpRequestParser | None = None

    def fields(self, head: bytes, target: bytes, count: int) -> list[Field]:
        """The fields of ``head``, names in lower case, values perhaps with white space behind them.

        target, count: what llhttp must find: the request target, and how many fields.

        Errors: BadRequest, NotImplementedHere.
        """
        parser = self._parser or httptools.HttpRequestParser(self._heard)
        fields = self._heard.fields = []
        self._parser = None
        try:
            parser.feed_data(head)
            self._parser = parser
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserInvalidMethodError:
            raise NotImplementedHere(f"unknown method: {shown(head[: head.index(b' ')])}") from None
        except httptools.HttpParserError as error:
            raise BadRequest(f"not a request: {str(error)[:80]}") from None
        if self._heard.target != target or len(fields) != count:
            raise BadRequest("the head can be read in two ways")
        return fields

    def forget(self) -> None:
        """A head that does not make another one follow leaves the parser in the midst of something."""
        self._parser = None


class _Heard:
    """What llhttp calls back about one head."""

    __slots__ = ("fields", "target")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.target = b""

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def _refuse(raw: bytes) -> NoReturn:
    """Says why ``raw`` is not well-formed; a line end that a peer may read otherwise comes first."""
    refuse_stray(raw, 0, len(raw))
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise BadRequest(f"not a request line: {shown(raw[: raw.index(b'\r\n')])}")
    if line[5] != b"1":
        raise VersionNotSupported("only HTTP/1.1 and HTTP/1.0 are spoken here")
    refuse_section(raw[line.end() :])


def _other_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """Path, query and authority of a target in another than the origin form (RFC 9112 3.2.2, 3.2.4)."""
    if method == b"CONNECT":
        raise NotImplementedHere("CONNECT: this is no proxy")
    if target == b"*" and method == b"OPTIONS":
        return target, None, None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not HOST.fullmatch(absolute[1]):
        raise BadRequest(f"not a request target: {shown(target)}")
    return absolute[2] or b"/", absolute[3], absolute[1]


def _replace_host(fields: list[Field], authority: bytes) -> None:
    for number, (name, _) in enumerate(fields):
        if name == b"host":
            fields[number] = (name, authority)
            return
    fields.insert(0, (b"host", authority))


def _told(fields: list[Field], version: str) -> _Told:
    """What the fields say about body and connection; ``_PLAIN`` itself where nothing but 1.1's defaults."""
    told: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _TELLING:
            if name in told:
                if name in _SINGLE:
                    raise BadRequest(f"more than one {name.decode()}")
                told[name] += b"," + value
            else:
                told[name] = value
    modern = version == "1.1"
    host = told.get(b"host")
    if host is None:
        if modern:
            raise BadRequest("no host")
    elif host and not HOST.fullmatch(host):
        raise BadRequest(f"not a host: {shown(host)}")
    if modern and (len(told) == 1 or (len(told) == 2 and told.get(b"connection") in _KEEP_ALIVE)):
        return _PLAIN
    options = _members(told, b"connection")
    return (
        _content_length(told),
        _chunked(told, modern),
        b"close" not in options and (modern or b"keep-alive" in options),
        modern and b"100-continue" in _members(told, b"expect"),
        told.get(b"upgrade", b"").lower() or None if modern and b"upgrade" in options else None,
        modern and b"trailers" in _members(told, b"te"),
    )


def _members(told: dict[bytes, bytes], name: bytes) -> list[bytes]:
    """The members of a comma-separated field, in lower case (RFC 9110 5.6.1)."""
    return [member.strip(b" \t") for member in told[name].lower().split(b",")] if name in told else []


def _content_length(told: dict[bytes, bytes]) -> int | None:
    value = told.get(b"content-length")
    if value is None:
        return None
    if b"transfer-encoding" in told:
        raise BadRequest("both content-length and transfer-encoding")
    if not _LENGTH.fullmatch(value):
        raise BadRequest(f"not a content-length: {shown(value)}")
    return int(value)


def _chunked(told: dict[bytes, bytes], modern: bool) -> bool:
    coding = told.get(b"transfer-encoding")
    if coding is None:
        return False
    if not modern:
        raise BadRequest("transfer-encoding in HTTP/1.0")
    if coding.lower() != b"chunked":
        raise NotImplementedHere(f"unknown transfer coding: {shown(coding)}")
    return True
