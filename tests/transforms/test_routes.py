"""``POST /api/transform`` as its clients see it, on a real server, over our wire and the stock one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.traffic import Head, RawClient, wait_until
from tests.processes import SluiceProcess, run, running

_STALL_SECONDS = 1.5
_TRAILERS = "TE: trailers\r\nConnection: TE\r\n"


@dataclass(frozen=True)
class Answer:
    """An answer to its end. complete: its last chunk came. trailers: by lower-case name."""

    head: Head
    body: bytes
    complete: bool
    trailers: dict[str, str]

    @property
    def problem(self) -> Any:
        assert self.head.fields["content-type"] == "application/problem+json"
        return json.loads(self.body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transform")
    assert run(folder, "migrate").returncode == 0
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[SluiceProcess]:
    with running(folder, SLUICE_STALL_TIMEOUT=f"{_STALL_SECONDS}s", SLUICE_REQUEST_DEADLINE="3s") as server:
        yield server


@pytest.fixture(scope="module")
def stock(folder: Path) -> Iterator[SluiceProcess]:
    with running(folder, SLUICE_WIRE="stock") as server:
        yield server


@pytest.fixture(params=["server", "stock"])
def any_server(request: pytest.FixtureRequest) -> SluiceProcess:
    return request.getfixturevalue(request.param)


def _path(*steps: str) -> str:
    return "/api/transform?" + urllib.parse.urlencode([("step", step) for step in steps])


def _begin(client: RawClient, steps: tuple[str, ...], fields: str = "") -> None:
    client.send(f"POST {_path(*steps)} HTTP/1.1\r\nHost: sluice\r\n{fields}\r\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _outcome(server: SluiceProcess, request_id: str) -> str:
    """What the log says of that request, which may follow those of requests that were answered before."""

    def logged() -> list[str]:
        return [line["outcome"] for line in server.events("request") if line["request_id"] == request_id]

    wait_until(lambda: bool(logged()), "it is logged")
    (outcome,) = logged()
    return outcome


def _read_chunk(client: RawClient) -> bytes | None:
    """None where the connection ends before it is whole."""
    line = b""
    while not line.endswith(b"\r\n"):
        byte = client.read(1)
        if not byte:
            return None
        line += byte
    size = int(line, 16)
    data = client.read(size) if size else b""
    if size and client.read(2) != b"\r\n":
        return None
    return data


def _rest(client: RawClient) -> Answer:
    head = client.read_head()
    if "content-length" in head.fields:
        return Answer(head, client.read(int(head.fields["content-length"])), True, {})
    body = bytearray()
    while chunk := _read_chunk(client):
        body += chunk
    if chunk is None:
        return Answer(head, bytes(body), False, {})
    lines = b""
    while not lines.endswith(b"\r\n\r\n") and lines != b"\r\n":
        lines += client.read(1)
    trailers = dict(line.split(": ", 1) for line in lines.decode().split("\r\n") if line)
    return Answer(head, bytes(body), True, trailers)


def _transform(server: SluiceProcess, body: bytes, *steps: str, fields: str = "") -> Answer:
    with RawClient(server.port) as client:
        _begin(client, steps, f"Content-Length: {len(body)}\r\n{fields}")
        client.send(body)
        return _rest(client)


# -- what comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "body", "found", "media_type"),
    [
        (["upper"], "straße".encode(), b"STRASSE", "text/plain"),
        (["csv-to-ndjson"], b"a,b\n1,x\n", b'{"a":"1","b":"x"}\n', "application/x-ndjson"),
        (["csv-to-ndjson", "where:a>=2", "ndjson-to-csv"], b"a,b\n1,x\n2,y\n", b"a,b\r\n2,y\r\n", "text/csv"),
        (["json-to-ndjson", "head:1"], b'[{"a":1},{"a":2}]', b'{"a":1}\n', "application/x-ndjson"),
        (["upper"], b"", b"", "text/plain"),
    ],
)
def test_the_body_comes_back_transformed(
    any_server: SluiceProcess, steps: list[str], body: bytes, found: bytes, media_type: str
) -> None:
    answer = _transform(any_server, body, *steps)
    assert (answer.head.status, answer.body, answer.complete) == (200, found, True)
    assert answer.head.fields["content-type"].partition(";")[0] == media_type
    assert answer.head.fields["x-request-id"]


def test_a_compressed_answer_says_so(server: SluiceProcess) -> None:
    answer = _transform(server, b"a,b\n1,x\n", "csv-to-ndjson", "gzip")
    fields = answer.head.fields
    assert (fields["content-type"], fields["content-encoding"]) == ("application/x-ndjson", "gzip")
    assert gzip.decompress(answer.body) == b'{"a":"1","b":"x"}\n'


def test_a_compressed_body_is_undone_on_the_way_in(server: SluiceProcess) -> None:
    packed = gzip.compress(b"hello " * 100_000)
    answer = _transform(server, packed, "upper", fields="Content-Encoding: gzip\r\n")
    assert answer.body == b"HELLO " * 100_000


def test_an_encoding_that_is_not_known_is_refused(server: SluiceProcess) -> None:
    answer = _transform(server, b"x", "upper", fields="Content-Encoding: br\r\n")
    assert (answer.head.status, answer.problem["type"]) == (415, "urn:sluice:error:unsupported-content-encoding")
    assert answer.head.fields["accept-encoding"] == "gzip, zstd"


def test_trailers_come_to_who_takes_them(server: SluiceProcess) -> None:
    answer = _transform(server, b"abc", "sha256", "upper", fields=_TRAILERS)
    digests = [
        f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:" for data in (answer.body, b"abc")
    ]
    assert answer.trailers == {"sluice-status": "ok", "content-digest": digests[0], "sluice-digest": digests[1]}
    assert _transform(server, b"abc", "sha256").trailers == {}


def test_the_steps_are_listed(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        client.get("/api/transform/steps")
        head, body = client.answer()
    assert head.status == 200
    steps = {step["name"]: step for step in body["steps"]}
    assert {"upper", "gzip", "unzstd", "csv-to-ndjson", "where", "distinct", "sha256"} <= set(steps)
    assert steps["select"]["takes"] == ["ndjson"]
    assert all({"arguments", "meaning", "takes", "gives", "memory"} <= set(step) for step in steps.values())


def test_one_connection_serves_one_after_the_other(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        for word in (b"one", b"two"):
            _begin(client, ("upper",), f"Content-Length: {len(word)}\r\n")
            client.send(word)
            assert _rest(client).body == word.upper()


# -- as it comes -------------------------------------------------------------------------------------------------------


def test_the_answer_starts_before_the_upload_ends_and_both_go_on(any_server: SluiceProcess) -> None:
    with RawClient(any_server.port) as client:
        _begin(client, ("upper",), "Transfer-Encoding: chunked\r\n")
        client.send(_chunk(b"hello"))
        assert client.read_head().status == 200
        assert _read_chunk(client) == b"HELLO"
        for word in (b"and", b"so on"):
            client.send(_chunk(word))
            assert _read_chunk(client) == word.upper()
        client.send(b"0\r\n\r\n")
        assert _read_chunk(client) == b""


def test_more_goes_through_than_is_ever_held(server: SluiceProcess) -> None:
    """The client reads only what it has to: the server must have passed on what it got."""
    block = b"0123456789abcdef" * 4096
    with RawClient(server.port) as client:
        _begin(client, ("lower", "upper", "sha256"), "Transfer-Encoding: chunked\r\n")
        client.send(_chunk(block) * 4)
        assert client.read_head().status == 200
        got = 0
        for _ in range(200):
            client.send(_chunk(block))
            got += len(_read_chunk(client) or b"")
        client.send(b"0\r\n\r\n")
        while chunk := _read_chunk(client):
            got += len(chunk)
        assert chunk == b""
        assert got == 204 * len(block)


def test_head_ends_the_upload_early_and_politely(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        _begin(client, ("head:2",), "Transfer-Encoding: chunked\r\n")
        client.send(_chunk(b'{"a":1}\n{"a":2}\n{"a":3}\n') + _chunk(b'{"a":4}\n' * 1000))
        answer = _rest(client)
        assert (answer.body, answer.complete) == (b'{"a":1}\n{"a":2}\n', True)
    wait_until(lambda: server.events("request")[-1]["bytes"] == len(answer.body), "it is logged")
    assert server.events("request")[-1]["outcome"] == "ok"


def test_a_client_that_expects_to_be_asked_is(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        _begin(client, ("upper",), "Content-Length: 2\r\nExpect: 100-continue\r\n")
        assert client.read_head().status == 100
        client.send(b"ab")
        assert _rest(client).body == b"AB"


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "name", "words"),
    [
        ([], "bad-step", "no step"),
        (["shout"], "bad-step", "'shout'"),
        (["gzip", "upper"], "bad-step", "upper, wants"),
        (["where:a"], "bad-step", "where"),
    ],
)
def test_bad_steps_are_refused_before_a_byte_is_read(
    server: SluiceProcess, steps: list[str], name: str, words: str
) -> None:
    with RawClient(server.port) as client:
        _begin(client, tuple(steps), "Content-Length: 1000000\r\nExpect: 100-continue\r\n")
        answer = _rest(client)
    assert (answer.head.status, answer.problem["type"]) == (400, f"urn:sluice:error:{name}")
    assert words in answer.problem["detail"]


def test_a_step_that_cannot_be_decoded_is_refused(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        client.send(b"POST /api/transform?step=%ff HTTP/1.1\r\nHost: sluice\r\nContent-Length: 0\r\n\r\n")
        assert _rest(client).head.status == 400


@pytest.mark.parametrize(
    ("steps", "body", "members"),
    [
        (["upper"], b"ab\xffcd", {"offset": 2}),
        (["csv-to-ndjson"], b"a,b\n1,2\n3\n", {"line": 3}),
        (["select:a"], b'{"a":1}\n{"a":\n', {"record": 2}),
        (["gunzip"], gzip.compress(b"x" * 1000, mtime=0)[:-3], {}),
    ],
)
def test_what_is_malformed_is_told_with_its_place(
    any_server: SluiceProcess, steps: list[str], body: bytes, members: dict[str, int]
) -> None:
    answer = _transform(any_server, body, *steps)
    assert (answer.head.status, answer.problem["type"]) == (400, "urn:sluice:error:malformed-input")
    assert members.items() <= answer.problem.items()


def test_what_is_malformed_late_cuts_the_answer(any_server: SluiceProcess) -> None:
    body = b"a" * 3_000_000 + b"\xff" + b"a" * 1000
    answer = _transform(any_server, body, "upper")
    assert (answer.head.status, answer.complete) == (200, False)
    assert set(answer.body) <= {ord("A")}
    wait_until(lambda: any_server.events("request")[-1]["outcome"] == "client_error", "it is logged as what it was")


def test_a_bomb_is_refused(server: SluiceProcess) -> None:
    bomb = gzip.compress(b"\0" * 200_000_000)
    answer = _transform(server, bomb, "gunzip", "gzip")
    assert not answer.complete or answer.head.status == 413


# -- who leaves, and who stalls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["finish", "reset"])
@pytest.mark.parametrize("step", ["upper", "gzip", "csv-to-ndjson"])
def test_a_client_that_leaves_in_mid_upload_ends_it_all(server: SluiceProcess, step: str, end: str) -> None:
    request_id = f"leaves-{step}-{end}"
    with RawClient(server.port) as client:
        _begin(client, (step,), f"Transfer-Encoding: chunked\r\nX-Request-Id: {request_id}\r\n")
        client.send(_chunk(b"a,b\n" + b"1,2\n" * 50_000))
        assert client.read_head().status == 200
        getattr(client, end)()
    assert _outcome(server, request_id) == "disconnected"


def test_a_client_that_stops_reading_is_cut(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        _begin(client, ("upper",), "Content-Length: 1000000000\r\nX-Request-Id: stops-reading\r\n")
        client._socket.settimeout(0.5)
        with pytest.raises((TimeoutError, OSError)):
            while True:
                client.send(b"x" * 100_000)
        assert _outcome(server, "stops-reading") == "disconnected"


def test_a_client_that_stops_sending_is_cut(server: SluiceProcess) -> None:
    with RawClient(server.port) as client:
        _begin(client, ("upper",), "Content-Length: 1000\r\n")
        client.send(b"abc")
        answer = _rest(client)
        assert (answer.body, answer.complete) == (b"ABC", False)


def test_a_reader_that_is_slow_but_moves_is_never_cut(server: SluiceProcess) -> None:
    """Neither the stall limit counts while our own backpressure pauses the upload, nor the server's deadline."""
    block = b"0123456789abcdef" * 65536
    blocks, seconds = 24, 2.5 * _STALL_SECONDS
    with RawClient(server.port) as client:
        _begin(client, ("upper",), f"Content-Length: {len(block) * blocks}\r\n")
        client._socket.setblocking(False)
        sent = got = 0
        received = bytearray()
        began = time.monotonic()
        body = block * blocks
        while not received.endswith(b"\r\n0\r\n\r\n"):
            with suppress(BlockingIOError):
                sent += client._socket.send(body[sent : sent + 65536]) if sent < len(body) else 0
            # At the pace that makes the whole take longer than each of the limits.
            if got < (time.monotonic() - began) / seconds * len(body):
                try:
                    data = client._socket.recv(262144)
                except BlockingIOError:
                    continue
                assert data, "the server has cut it"
                got += len(data)
                received = (received + data)[-16:]
            else:
                time.sleep(0.005)
        assert time.monotonic() - began > 3
