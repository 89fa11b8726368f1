"""Bodies of ``POST /api/process`` that are too large, too deep, too many or too slow, on a real server."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.compute.conftest import JSON, Site, begin, request, result, send, told
from tests.exchange import Answer
from tests.faults.traffic import RawClient, wait_until

MIB = 1024**2
"""For large bodies, on the narrow site: one for each task that runs or waits."""


def _answer(client: RawClient) -> Answer:
    head = client.read_head()
    return Answer(head.status, head.fields, client.read(int(head.fields["content-length"])))


def _files(site: Site) -> list[int]:
    """The sizes of those in memory that the server has open for bodies and arguments."""
    sizes: list[int] = []
    for entry in Path(f"/proc/{site.server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if re.match(r"/memfd:sluice-(request|task)", str(entry.readlink())):
                sizes.append(entry.stat().st_size)
    return sizes


def _nothing_is_left(site: Site) -> None:
    wait_until(lambda: not _files(site), "the files in memory are closed")


# -- limits ------------------------------------------------------------------------------------------------------------


def test_what_is_announced_as_too_large_is_refused_before_it_comes(narrow_site: Site) -> None:
    with RawClient(narrow_site.server.port) as client:
        begin(client, 3 * MIB + 1)
        assert told(_answer(client)) == (413, "body-too-large")


def test_what_turns_out_too_large_is_refused_before_it_ends(narrow_site: Site) -> None:
    with RawClient(narrow_site.server.port) as client:
        client.send(
            b"POST /api/process HTTP/1.1\r\nHost: sluice\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            client.send(b"%x\r\n%b\r\n" % (MIB, b" " * MIB))
        client.send(b"1\r\n \r\n")
        assert told(_answer(client)) == (413, "body-too-large")
    _nothing_is_left(narrow_site)


def test_the_largest_body_is_taken(narrow_site: Site) -> None:
    body = request("echo", value=1)
    assert result(narrow_site.post(body + b" " * (3 * MIB - len(body)))) == 1
    _nothing_is_left(narrow_site)


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"[" * 65, 64),
        (b'{"task":"echo","args":{"value":' + b'{"a":[' * 32, 31 + 31 * 6),
        (b'["' + b"x" * (MIB + 1), 2 + MIB),
        (b"[{" + b'"":0,' * 1_000_001, 2 + 1_000_000 * 5 + 2),
    ],
    ids=["array", "both", "string", "members"],
)
def test_too_much_structure_is_refused_before_it_ends(site: Site, body: bytes, offset: int) -> None:
    with RawClient(site.server.port) as client:
        begin(client, 20 * MIB)
        client.send(body)
        answer = _answer(client)
    assert told(answer) == (400, "bad-json")
    assert answer.problem["detail"].endswith(f"at byte {offset}")
    _nothing_is_left(site)


def test_as_much_structure_as_may_be_is_taken(site: Site) -> None:
    deep: list[object] = []
    for _ in range(61):
        deep = [deep]
    assert result(site.run("echo", value=deep)) == deep
    text = "x" * (MIB - 2)
    assert result(site.run("echo", value=[text, text])) == [text, text]


# -- many and large ----------------------------------------------------------------------------------------------------


def _peak_memory(site: Site) -> int:
    status = Path(f"/proc/{site.server.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_a_large_body_does_not_stay_in_the_servers_memory(site: Site) -> None:
    """The worker that takes it apart has no more than the task's memory either."""
    assert result(site.run("echo", value=1)) == 1
    before = _peak_memory(site)
    head, tail = b'{"task":"echo","args":{"value":1', b"}}"
    with RawClient(site.server.port) as client:
        begin(client, 64 * MIB)
        client.send(head)
        for _ in range(63):
            client.send(b" " * MIB)
        client.send(b" " * (MIB - len(head) - len(tail)) + tail)
        assert result(_answer(client)) == 1
    assert _peak_memory(site) - before < 16 * MIB
    _nothing_is_left(site)


def _begin_large(site: Site, clients: ExitStack) -> RawClient:
    """A client that has sent all of its body but for the end, and does not go on."""
    client = clients.enter_context(RawClient(site.server.port))
    before = sum(_files(site))
    begin(client, 3 * MIB)
    client.send(b" " * (3 * MIB - 2))
    wait_until(lambda: sum(_files(site)) == before + 3 * MIB - 2, "it is there")
    return client


def test_too_many_large_bodies_are_refused_until_a_client_leaves(narrow_site: Site) -> None:
    body = request("echo", value=1)
    body += b" " * (2 * MIB - len(body))
    with ExitStack() as clients:
        slow = [_begin_large(narrow_site, clients) for _ in range(2)]
        answer = narrow_site.post(body)
        assert told(answer) == (503, "overloaded")
        assert int(answer.fields["retry-after"]) >= 1
        assert result(narrow_site.run("echo", value=2)) == 2  # which is small
        slow[0].reset()
        wait_until(lambda: len(_files(narrow_site)) < 2, "its bytes are given back")
        assert result(narrow_site.post(body)) == 1
        slow[1].send(b"[]")
        assert set(json.loads(_answer(slow[1]).body)) == {"result"}
    _nothing_is_left(narrow_site)


@pytest.mark.parametrize("how", ["reset", "finish", "half_close"])
@pytest.mark.parametrize("when", ["running", "waiting"])
def test_a_client_that_leaves_ends_its_task_and_gives_back_its_place(narrow_site: Site, how: str, when: str) -> None:
    name = f"{when}-{how}"
    mark = narrow_site.place(name)
    padding = b" " * MIB
    if when == "running":
        with RawClient(narrow_site.server.port) as client:
            send(client, request("hold", begun=str(mark)) + padding)
            wait_until(mark.exists, "it runs")
            getattr(client, how)()
            wait_until(mark.with_suffix(".ended").exists, "it is told to end")
    else:
        with narrow_site.holding(f"{name}-first"):
            with RawClient(narrow_site.server.port) as client:
                send(client, request("hold", begun=str(mark)) + padding)
                wait_until(lambda: _files(narrow_site), "it waits")
                getattr(client, how)()
                _nothing_is_left(narrow_site)
            (narrow_site.folder / f"{name}-first.go").touch()
        assert result(narrow_site.run("echo", value=1)) == 1
        assert not mark.exists()
    _nothing_is_left(narrow_site)


def test_a_full_queue_refuses_and_says_when_to_come_again(narrow_site: Site) -> None:
    with narrow_site.holding("full"):
        waiting = narrow_site.run("echo", {"Prefer": "respond-async"}, value=1)
        assert waiting.status == 202
        for fields in ({}, {"Prefer": "respond-async"}, {"Idempotency-Key": "full"}):
            answer = narrow_site.run("echo", fields, value=2)
            assert told(answer) == (503, "overloaded")
            assert 1 <= int(answer.fields["retry-after"]) <= 60
        (narrow_site.folder / "full.go").touch()
    over = narrow_site.job(waiting, "succeeded")
    assert over["result"] == 1


def test_a_whole_request_is_as_late_as_any(narrow_site: Site) -> None:
    body = request("hold", begun=str(narrow_site.place("late"))) + b" " * MIB
    assert told(narrow_site.post(body, [*JSON, ("Sluice-Deadline", "0.3")])) == (504, "deadline")
    _nothing_is_left(narrow_site)
