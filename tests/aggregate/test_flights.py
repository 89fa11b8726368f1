"""Requests that share calls, how many go to a host, and what is left when all is over."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

from app.aggregate.hosts import HostBusy, Hosts
from app.aggregate.service import Aggregate
from app.aggregate.upstream import Upstream
from app.errors import UpstreamFailed, UpstreamTooLate
from tests.aggregate.upstreams import (
    Exchange,
    answer,
    answering,
    one_source,
    request,
    source,
    stall,
    two_sources,
    upstream,
    views,
)

_SHARED = ["single_flight = true"]


class Gated:
    """Answers once it is told to, with the number of the request."""

    def __init__(self) -> None:
        self.go = trio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await self.go.wait()
        await exchange.answer(b"%d" % exchange.number)


async def ask_into(found: list[Any], aggregate: Aggregate, **parameters: Any) -> None:
    found.append(await source(aggregate, **parameters))


# -- single flight -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("view", "calls"), [(_SHARED, 1), ([], 5)])
async def test_the_same_requests_share_their_calls_where_the_view_says_so(
    view: list[str], calls: int, tmp_path: Path
) -> None:
    gated = Gated()
    async with upstream(gated) as server, views(tmp_path, one_source(server.url, view=view)) as aggregate:
        found: list[Any] = []
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask_into, found, aggregate)
            await server.wait(lambda: aggregate.statistics().requests == 5 and len(server.asked) == calls)
            assert aggregate.statistics().flights == calls
            gated.go.set()
        assert len(server.asked) == calls
        assert {each["value"] for each in found} == set(range(1, calls + 1))
        assert (aggregate.statistics().requests, aggregate.statistics().flights) == (0, 0)


async def test_other_parameters_are_another_request(tmp_path: Path) -> None:
    gated, found = Gated(), list[Any]()
    text = one_source("{}/{id}", view=_SHARED)
    async with (
        upstream(gated) as server,
        views(tmp_path, text.replace("{}", server.url)) as aggregate,
        trio.open_nursery() as nursery,
    ):
        for id in ("a", "b", "a"):
            # What no placeholder is filled with makes no difference.
            nursery.start_soon(partial(ask_into, found, aggregate, id=id, other=str(len(found))))
        await server.wait(lambda: aggregate.statistics().requests == 3 and len(server.asked) == 2)
        gated.go.set()


async def test_who_comes_when_all_is_settled_begins_anew(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server, views(tmp_path, one_source(server.url, view=_SHARED)) as aggregate:
        async with aggregate.ask(request()) as asked:
            assert [one.source async for one in asked.settling()] == ["s"]
            await source(aggregate)  # while the first is still being told
        assert len(server.asked) == 2
        assert aggregate.statistics().flights == 0


async def test_calls_that_have_little_time_left_are_not_shared(tmp_path: Path, mock_clock: MockClock) -> None:
    gated, found = Gated(), list[Any]()
    text = one_source("{}", view=["deadline = 10", *_SHARED])
    async with (
        upstream(gated) as server,
        views(tmp_path, text.replace("{}", server.url)) as aggregate,
        trio.open_nursery() as nursery,
    ):
        for seconds, calls in ((0, 1), (4, 1), (2, 2), (3, 2)):
            mock_clock.jump(seconds)
            nursery.start_soon(ask_into, found, aggregate)
            await server.settle()
            await server.wait_frozen(lambda calls=calls: len(server.asked) == calls)
        assert aggregate.statistics().requests == 4
        mock_clock.jump(1.5)  # the first two are late
        await server.wait_frozen(lambda: len(found) == 2)
        gated.go.set()
        await server.wait_frozen(lambda: len(found) == 4)
    assert [each.get("value", each.get("reason")) for each in found] == ["timeout", "timeout", 2, 2]


async def test_who_has_less_time_leaves_the_others_alone(tmp_path: Path) -> None:
    gated, found = Gated(), list[Any]()
    async with (
        upstream(gated) as server,
        views(tmp_path, one_source(server.url, "fallback = 0", view=_SHARED)) as aggregate,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask_into, found, aggregate)
        await server.wait(lambda: len(server.asked) == 1)
        hurried = (await answer(aggregate, seconds=0.05))["sources"]["s"]
        assert (hurried["reason"], hurried["from"], hurried["attempts"]) == ("timeout", "fallback", 1)
        assert (server.open, found) == (1, [])
        gated.go.set()
        await server.wait(lambda: bool(found))
        assert found[0]["value"] == 1


async def test_what_goes_wrong_in_a_shared_call_is_told_to_all_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        await trio.sleep(0.02)
        raise ZeroDivisionError

    monkeypatch.setattr(Upstream, "call", broken)
    async with views(tmp_path, one_source("http://127.0.0.1:9/", view=_SHARED)) as aggregate:
        raised: list[BaseException] = []

        async def ask() -> None:
            try:
                await aggregate.answer(request())
            except ExceptionGroup as group:
                raised.extend(group.exceptions)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        assert [type(each) for each in raised] == [ZeroDivisionError] * 2
        assert aggregate.statistics().flights == 0


# -- what is required --------------------------------------------------------------------------------------------------


async def test_a_failure_that_is_required_ends_the_other_calls_at_once(tmp_path: Path) -> None:
    async with upstream(answering({}, 500)) as bad, upstream(stall) as slow:
        text = two_sources(bad.url, slow.url, "required = true")
        async with views(tmp_path, text) as aggregate:
            with pytest.raises(UpstreamFailed) as caught:
                await aggregate.answer(request())
            await slow.has_no_connection()
    sources: Any = caught.value.members["sources"]
    assert list(sources) == ["a", "b"]
    assert (sources["a"]["reason"], sources["b"]["reason"]) == ("status 500", "cancelled")


async def test_a_failure_for_time_is_another_one(tmp_path: Path) -> None:
    text = one_source("{}", "required = true", "timeout = '30ms'")
    async with upstream(stall) as slow, views(tmp_path, text.replace("{}", slow.url)) as aggregate:
        with pytest.raises(UpstreamTooLate):
            await aggregate.answer(request())


# -- hosts -------------------------------------------------------------------------------------------------------------


async def test_no_more_calls_than_may_be_go_to_a_host() -> None:
    hosts, most = Hosts(3, 100), 0

    async def call() -> None:
        nonlocal most
        async with hosts.permit("a"):
            most = max(most, hosts.statistics().calls["a"])
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(call)
    assert most == 3
    assert hosts.statistics().calls == {}


async def test_who_would_wait_behind_too_many_is_refused() -> None:
    hosts = Hosts(1, 2)

    async def wait() -> None:
        async with hosts.permit("a"):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert (hosts.statistics().calls, hosts.statistics().waiting) == ({"a": 1}, {"a": 2})
        with pytest.raises(HostBusy):
            async with hosts.permit("a"):
                raise AssertionError
        async with hosts.permit("b"):  # which is another one
            pass
        nursery.cancel_scope.cancel()
    assert hosts.statistics().calls == {}


async def test_a_busy_host_is_told(tmp_path: Path) -> None:
    def make(settings: Any, _: Hosts) -> Upstream:
        return Upstream(settings, hosts)

    hosts = Hosts(1, 0)
    async with (
        upstream(stall) as server,
        views(tmp_path, one_source(server.url), make) as aggregate,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(source, aggregate)
        await server.wait(lambda: len(server.asked) == 1)
        assert (await source(aggregate))["reason"] == "overloaded"
        nursery.cancel_scope.cancel()


async def test_the_time_that_is_waited_for_a_host_is_the_calls_own(tmp_path: Path, mock_clock: MockClock) -> None:
    hosts = Hosts(1)

    def make(settings: Any, _: Hosts) -> Upstream:
        return Upstream(settings, hosts)

    text = one_source("{}", "timeout = '10s'", view=["deadline = '30s'"])
    async with upstream(stall) as server, views(tmp_path, text.replace("{}", server.url), make) as aggregate:
        found: list[Any] = []
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ask_into, found, aggregate)
            await server.wait_frozen(lambda: hosts.statistics().waiting == {f"127.0.0.1:{server.port}": 1})
            mock_clock.jump(10)
        assert [each["reason"] for each in found] == ["timeout", "timeout"]
        assert hosts.statistics().calls == {}


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def tls_server(names: list[str], nursery: trio.Nursery) -> tuple[int, ssl.SSLContext]:
    """A port where TLS is spoken under these names, and a context that trusts it."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"s"')
            await stream.receive_some()
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    (listener,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    nursery.start_soon(trio.serve_listeners, serve, [listener])
    return listener.transport_listener.socket.getsockname()[1], trusting  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("names", "reason"), [(["127.0.0.1"], None), (["far.example"], "tls")])
async def test_a_certificate_must_be_that_of_the_host(names: list[str], reason: str | None, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        port, trusting = await tls_server(names, nursery)
        make = partial(Upstream, tls=trusting)
        async with views(tmp_path, one_source(f"https://127.0.0.1:{port}/"), make) as aggregate:
            assert (await source(aggregate)).get("reason") == reason
        nursery.cancel_scope.cancel()


async def test_who_is_not_trusted_is_told(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        port, _ = await tls_server(["127.0.0.1"], nursery)
        async with views(tmp_path, one_source(f"https://127.0.0.1:{port}/")) as aggregate:
            assert (await source(aggregate))["reason"] == "tls"
        nursery.cancel_scope.cancel()


async def _reason_over_tls(serve: Callable[[trio.SocketStream], Awaitable[None]], tmp_path: Path) -> str:
    """Why there is no value of a source that is called by TLS and answered by ``serve``."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}/"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        async with views(tmp_path, one_source(url)) as aggregate:
            reason: str = (await source(aggregate))["reason"]
        nursery.cancel_scope.cancel()
    return reason


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_handshake_that_is_cut_says_nothing_of_trust(how: str, tmp_path: Path) -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await stream.receive_some(1 if how == "reset" else None)  # what is unread makes it a reset
        await stream.aclose()

    assert await _reason_over_tls(cut, tmp_path) == "cut"


async def test_what_speaks_no_tls_is_told(tmp_path: Path) -> None:
    async def plain(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.receive_some()

    assert await _reason_over_tls(plain, tmp_path) == "tls"


async def test_a_handshake_that_stalls_is_ended_with_its_connection(tmp_path: Path) -> None:
    ended = trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some():
                pass
            ended.set()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}/"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, silent, [listener])
        async with views(tmp_path, one_source(url, "timeout = '50ms'")) as aggregate:
            assert (await source(aggregate))["reason"] == "timeout"
            with trio.fail_after(20):
                await ended.wait()
        nursery.cancel_scope.cancel()


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_idle_connections_are_closed_with_the_room(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server:
        async with views(tmp_path, two_sources(server.url, server.url)) as aggregate:
            assert json.loads(await aggregate.answer(request()))["complete"] is True
            assert server.open == 2  # a source's connections are its own
        await server.has_no_connection()
