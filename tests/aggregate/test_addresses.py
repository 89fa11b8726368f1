"""Which addresses are public; and that one which is not is never connected to, whatever a name leads to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import httpcore
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from app.aggregate.addresses import is_public
from app.aggregate.hosts import Hosts
from app.aggregate.network import CheckedNetwork, Unreachable, Unresolved, resolve_name
from app.aggregate.upstream import Upstream
from app.config.aggregate import SourceSettings
from app.flow.threads import ThreadPool, ThreadStatistics, pools
from tests.aggregate.upstreams import SECONDS, Exchange, Redirected, answering, one_source, source, upstream, views

_PRIVATE = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1"),
    *("192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1"),
    *(
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "2002:7f00:1::1",
        "2002:101:101::",
        "2001::1",
    ),
    *("", "localhost", "1.2.3", "0x7f000001", "127.1"),
]
_PUBLIC = ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
_NETWORKS = [ip_network(each) for each in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16")]


@pytest.mark.parametrize("address", _PRIVATE)
def test_these_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", _PUBLIC)
def test_these_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("192.0.0.9", "192.0.0.171", "::ffff:192.0.0.9", "64:ff9b::c000:9"),
        *("2001::1", "2001:1::1", "2002:a00:1::", "2002:101:101::", "3fff::1"),
    ],
)
def test_these_are_not_whatever_python_says(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (IPv4Address, IPv6Address):
        monkeypatch.setattr(kind, "is_global", True)
    assert not is_public(address)


@settings(max_examples=200, deadline=None)
@given(number=st.integers(0, 2**32 - 1), around=st.sampled_from(["::ffff:0:0/96", "64:ff9b::/96"]))
def test_what_an_ipv4_address_is_packed_into_changes_nothing(number: int, around: str) -> None:
    packed = IPv6Address(int(IPv6Network(around).network_address) | number)
    assert is_public(str(packed)) == is_public(str(IPv4Address(number)))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), network=st.sampled_from(_NETWORKS))
def test_no_address_of_a_private_network_is_public(data: st.DataObject, network: Any) -> None:
    address = data.draw(st.ip_addresses(v=4, network=network))
    assert not is_public(str(address))


# -- when a connection is made -----------------------------------------------------------------------------------------


def leading(to: Redirected, resolve: Callable[[str], list[str]]) -> Any:
    """Makes upstreams whose names lead where ``resolve`` says at each look-up."""

    async def looked_up(host: str, _: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        return resolve(host)

    def make(source: SourceSettings, hosts: Hosts) -> Upstream:
        private = source.url.host if source.allow_private else None
        return Upstream(source, hosts, CheckedNetwork(private, looked_up, to))

    return make


_FAR = '[aggregate.v.sources.s]\nurl = "http://far.example/x"\n'


async def test_a_public_host_is_called_by_the_address_that_was_checked(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server:
        to = Redirected(server.port)
        async with views(tmp_path, _FAR, leading(to, lambda _: ["1.1.1.1"])) as aggregate:
            assert (await source(aggregate))["value"] == 1
        assert to.to == ["1.1.1.1"]
        assert server.asked[0].fields["host"] == "far.example"


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["::1"], ["1.1.1.1", "127.0.0.1"], ["169.254.169.254"]])
async def test_a_host_with_a_private_address_is_refused(addresses: list[str], tmp_path: Path) -> None:
    to = Redirected(9)
    async with views(tmp_path, _FAR, leading(to, lambda _: addresses)) as aggregate:
        assert (await source(aggregate))["reason"] == "forbidden-address"
    assert to.to == []


async def test_this_machine_is_refused_by_the_real_look_up(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"):
            text = f'[aggregate.v.sources.s]\nurl = "http://{host}:{server.port}/"\n'
            async with views(tmp_path, text) as aggregate:
                assert (await source(aggregate))["reason"] == "forbidden-address", host
        assert (server.asked, server.opened) == ([], 0)


async def test_a_name_that_changes_gains_nothing(tmp_path: Path) -> None:
    answers = iter([["1.1.1.1"], ["127.0.0.1"], ["127.0.0.1"]])

    async def once(exchange: Exchange) -> None:
        await exchange.answer(b"1", 200, "Connection: close")
        await exchange.stream.aclose()

    async with upstream(once) as server:
        to = Redirected(server.port)
        async with views(tmp_path, _FAR, leading(to, lambda _: next(answers))) as aggregate:
            assert (await source(aggregate))["value"] == 1
            assert (await source(aggregate))["reason"] == "forbidden-address"
        assert to.to == ["1.1.1.1"]


async def test_between_check_and_connection_there_is_no_other_look_up(tmp_path: Path) -> None:
    looked_up: list[str] = []

    def resolve(host: str) -> list[str]:
        looked_up.append(host)
        return ["1.1.1.1"]

    async with (
        upstream(answering(1)) as server,
        views(tmp_path, _FAR, leading(Redirected(server.port), resolve)) as aggregate,
    ):
        await source(aggregate)
    assert looked_up == ["far.example"]


@pytest.mark.parametrize("location", ["http://10.0.0.1/", "//169.254.169.254/latest", "http://inner.example/"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_private_address_is_refused(status: int, location: str, tmp_path: Path) -> None:
    async with upstream(answering({}, status, f"Location: {location}")) as server:
        names = {"inner.example": ["192.168.0.1"], "far.example": ["1.1.1.1"]}
        make = leading(Redirected(server.port), lambda host: names.get(host, [host]))
        async with views(tmp_path, _FAR, make) as aggregate:
            assert (await source(aggregate))["reason"] == "forbidden-address"
        assert len(server.asked) == 1


async def test_that_a_host_may_be_private_is_not_said_of_others(tmp_path: Path) -> None:
    async with upstream(answering(1)) as inner:
        location = f"Location: http://localhost:{inner.port}/"
        async with (
            upstream(answering({}, 302, location)) as server,
            views(tmp_path, one_source(server.url)) as aggregate,
        ):
            assert (await source(aggregate))["reason"] == "forbidden-address"
        assert inner.asked == []


async def test_a_redirect_is_followed_without_what_is_secret(tmp_path: Path) -> None:
    async def behave(exchange: Exchange) -> None:
        if exchange.fields["host"] == "far.example":
            await exchange.answer(b"", 302, "Location: http://farther.example:81/y?z=1")
        else:
            await exchange.answer(b"2")

    text = _FAR + 'headers = {Authorization = "secret"}\n'
    async with (
        upstream(behave) as server,
        views(tmp_path, text, leading(Redirected(server.port), lambda _: ["1.1.1.1"])) as aggregate,
    ):
        assert (await source(aggregate))["value"] == 2
    first, second = server.asked
    assert (first.target, first.fields["authorization"]) == ("/x", "secret")
    assert (second.target, second.fields["host"]) == ("/y?z=1", "farther.example:81")
    assert "authorization" not in second.fields
    assert second.fields["sluice-deadline"]


async def test_a_redirect_within_its_host_keeps_all(tmp_path: Path) -> None:
    async def behave(exchange: Exchange) -> None:
        moved = exchange.target == "/"
        await exchange.answer(b"3", 308 if moved else 200, *(["Location: /moved"] if moved else []))

    async with (
        upstream(behave) as server,
        views(tmp_path, one_source(server.url, 'headers = {x-a = "b"}')) as aggregate,
    ):
        assert (await source(aggregate))["value"] == 3
        assert server.asked[1].fields["x-a"] == "b"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/again", "too-many-redirects"),
        ("ftp://far.example/", "bad-redirect"),
        ("file:///etc/passwd", "bad-redirect"),
        ("http://[::1/", "bad-redirect"),
        ("http://far.example:99999/", "bad-redirect"),
    ],
)
async def test_redirects_that_lead_nowhere(location: str, reason: str, tmp_path: Path) -> None:
    async with upstream(answering({}, 302, f"Location: {location}")) as server:
        async with views(tmp_path, one_source(server.url)) as aggregate:
            assert (await source(aggregate))["reason"] == reason
        assert len(server.asked) <= 6


async def test_what_may_do_something_is_not_redirected(tmp_path: Path) -> None:
    async with upstream(answering({}, 307, "Location: /again")) as server:
        async with views(tmp_path, one_source(server.url, "method = 'POST'")) as aggregate:
            assert (await source(aggregate))["reason"] == "status 307"
        assert server.asked[0].fields["content-length"] == "0"


# -- several addresses -------------------------------------------------------------------------------------------------


async def test_the_first_address_that_answers_is_taken(autojump_clock: object) -> None:
    closed: list[str] = []

    class Stream(httpcore.AsyncNetworkStream):
        def __init__(self, address: str) -> None:
            self.address = address

        async def aclose(self) -> None:
            closed.append(self.address)

    async def connect(address: str, _: int) -> httpcore.AsyncNetworkStream:
        if address == "1.1.1.1":
            raise httpcore.ConnectError("refused")
        await trio.sleep({"1.1.1.2": 10.0, "1.1.1.3": 0.1}[address])
        return Stream(address)

    async def resolve(_: str, __: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["1.1.1.1", "1.1.1.2", "1.1.1.3"]

    began = trio.current_time()
    stream: Any = await CheckedNetwork(None, resolve, connect).connect_tcp("far.example", 80)
    assert (stream._stream.address, trio.current_time() - began) == ("1.1.1.3", pytest.approx(0.35))
    assert closed == []


class Closing(httpcore.AsyncNetworkStream):
    """closed: those that were."""

    def __init__(self, address: str, closed: list[str]) -> None:
        self.address, self._closed = address, closed

    async def aclose(self) -> None:
        self._closed.append(self.address)
        await trio.lowlevel.checkpoint()


async def resolve_two(_: str, __: int) -> list[str]:
    await trio.lowlevel.checkpoint()
    return ["1.1.1.1", "1.1.1.2"]


async def test_of_two_that_answer_at_once_one_is_closed() -> None:
    closed: list[str] = []
    both = trio.Event()

    async def connect(address: str, _: int) -> httpcore.AsyncNetworkStream:
        if address == "1.1.1.2":
            both.set()
        with trio.CancelScope(shield=True):  # the loser stands before it can be told
            await both.wait()
        return Closing(address, closed)

    stream: Any = await CheckedNetwork(None, resolve_two, connect).connect_tcp("far.example", 80)
    assert {stream._stream.address, *closed} == {"1.1.1.1", "1.1.1.2"}


async def test_who_leaves_while_a_connection_comes_about_closes_it() -> None:
    closed: list[str] = []

    async def connect(address: str, _: int) -> httpcore.AsyncNetworkStream:
        scope.cancel()
        return Closing(address, closed)

    with trio.CancelScope() as scope:
        await CheckedNetwork(None, resolve_two, connect).connect_tcp("far.example", 80)
    assert scope.cancelled_caught
    assert closed == ["1.1.1.1"]


async def test_where_no_address_answers_all_reasons_are_told() -> None:
    async def connect(address: str, _: int) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        raise OSError(f"no {address}")

    async def resolve(_: str, __: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["1.1.1.1", "1.1.1.2"]

    with pytest.raises(Unreachable, match=r"no 1\.1\.1\.1.*no 1\.1\.1\.2"):
        await CheckedNetwork(None, resolve, connect).connect_tcp("far.example", 80)


async def test_a_name_without_address_is_told(tmp_path: Path) -> None:
    def resolve(host: str) -> list[str]:
        raise Unresolved(host)

    async with views(tmp_path, _FAR, leading(Redirected(9), resolve)) as aggregate:
        assert (await source(aggregate))["reason"] == "unresolved"


async def test_names_are_really_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_knows(host: Any, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    threads = ThreadPool("names", 1)
    assert await resolve_name(threads, "127.0.0.1", 80) == ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", nobody_knows)
    with pytest.raises(Unresolved, match=r"nowhere\.example: .*not known"):
        await resolve_name(threads, "nowhere.example", 80)


async def test_names_that_nobody_answers_for_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = threading.Event(), threading.Event()

    def look_up(host: str, port: int, type: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        if host == "hanging.example":
            asked.set()
            go.wait(SECONDS)
        return [(socket.AF_INET, type, 6, "", ("1.1.1.1", port))]

    async def connect(address: str, _: int) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        return Closing(address, [])

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    hanging, other = (CheckedNetwork(connect=connect, look_ups=1) for _ in range(2))
    trios = trio.to_thread.current_default_thread_limiter()
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(hanging.connect_tcp, "hanging.example", 80)
            await trio.to_thread.run_sync(asked.wait, SECONDS)
            assert trios.borrowed_tokens == 0
            with trio.fail_after(SECONDS):
                await other.connect_tcp("other.example", 80)
            states = [pool.statistics() for pool in pools()]
            assert ThreadStatistics("names", size=1, busy=1, waiting=2) in states
            nursery.cancel_scope.cancel()
    finally:
        go.set()
