"""What a source makes of calls that fail: retries, hedges, the breaker, and what stands in for a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from app.aggregate.service import Aggregate
from tests.aggregate.upstreams import Exchange, answer, answering, one_source, source, stall, upstream, views

_BREAKER = "breaker = {failures = 3, window = '10s', reset = '5s'}"


def failing(times: int, status: int = 503, *fields: str) -> Any:
    """So often, then ``"ok"``."""

    async def behave(exchange: Exchange) -> None:
        failed = exchange.number <= times
        await exchange.answer(b"{}" if failed else b'"ok"', status if failed else 200, *(fields if failed else ()))

    return behave


def statistics(aggregate: Aggregate) -> Any:
    return aggregate.statistics().sources["v"]["s"]


# -- retries -----------------------------------------------------------------------------------------------------------


async def test_without_a_word_there_are_no_retries(tmp_path: Path) -> None:
    async with upstream(failing(1)) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert await source(aggregate) == {
            "status": "rejected",
            "reason": "status 503",
            "attempts": 1,
            "from": "live",
        }


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_may_pass_is_tried_again(status: int, tmp_path: Path) -> None:
    async with upstream(failing(2, status)) as server, views(tmp_path, one_source(server.url, "retries = 2")) as all:
        assert await source(all) == {"status": "fulfilled", "value": "ok", "attempts": 3, "from": "live"}
        assert (statistics(all).calls, statistics(all).retries, statistics(all).failures) == (3, 2, 2)


@pytest.mark.parametrize("status", [400, 404, 501])
async def test_what_will_not_pass_is_not(status: int, tmp_path: Path) -> None:
    async with upstream(failing(2, status)) as server, views(tmp_path, one_source(server.url, "retries = 2")) as all:
        assert (await source(all))["attempts"] == 1


async def test_a_retry_waits_as_long_as_it_is_asked_to(tmp_path: Path, mock_clock: MockClock) -> None:
    async with (
        upstream(failing(1, 503, "Retry-After: 7")) as server,
        views(tmp_path, one_source(server.url, "retries = 1")) as aggregate,
        trio.open_nursery() as nursery,
    ):
        told: list[Any] = []

        async def ask() -> None:
            told.append(await source(aggregate))

        nursery.start_soon(ask)
        await server.wait_frozen(lambda: statistics(aggregate).failures == 1)
        mock_clock.jump(6.9)
        await server.settle()
        assert (told, len(server.asked)) == ([], 1)
        mock_clock.jump(0.2)
        await server.wait_frozen(lambda: bool(told))
        assert told[0]["attempts"] == 2


async def test_a_retry_that_would_be_too_late_is_not_waited_for(tmp_path: Path) -> None:
    async with (
        upstream(failing(1, 503, "Retry-After: 3600")) as server,
        views(tmp_path, one_source(server.url, "retries = 1")) as aggregate,
    ):
        assert (await source(aggregate))["reason"] == "status 503"


async def test_a_storm_of_retries_is_held_by_the_budget(tmp_path: Path) -> None:
    async with upstream(answering({}, 503)) as server, views(tmp_path, one_source(server.url, "retries = 10")) as all:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(source, all)
        assert 100 < len(server.asked) <= 100 + 10 + 0.2 * 100
        assert statistics(all).retries == len(server.asked) - 100


# -- hedges ------------------------------------------------------------------------------------------------------------


async def first_stalls(exchange: Exchange) -> None:
    if exchange.number == 1:
        await stall(exchange)
    else:
        await exchange.answer(b"2")


async def test_a_hedge_wins_and_the_losers_connection_is_closed(tmp_path: Path) -> None:
    text = one_source("{}", "hedge_after = '30ms'")
    async with upstream(first_stalls) as server, views(tmp_path, text.replace("{}", server.url)) as aggregate:
        told = await source(aggregate)
        assert told == {"status": "fulfilled", "value": 2, "attempts": 2, "from": "live"}
        await server.wait(lambda: server.open == 1)
        assert (statistics(aggregate).hedges, statistics(aggregate).hedges_won) == (1, 1)
        assert (await source(aggregate))["value"] == 2
        assert server.opened == 2  # the winner's is used again


async def test_who_answers_in_time_is_not_hedged(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server, views(tmp_path, one_source(server.url, "hedge_after = '20s'")) as all:
        assert (await source(all))["attempts"] == 1
        assert statistics(all).hedges == 0


async def test_what_the_breaker_refuses_is_no_hedge(tmp_path: Path, mock_clock: MockClock) -> None:
    async def behave(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.answer(status=500)
        else:
            await probed.wait()
            await exchange.answer(b"1")

    probed, told = trio.Event(), list[Any]()
    lines = ("hedge_after = '1s'", "breaker = {failures = 1, window = '10s', reset = '5s'}")
    async with upstream(behave) as server, views(tmp_path, one_source(server.url, *lines)) as aggregate:
        assert (await source(aggregate))["reason"] == "status 500"
        mock_clock.jump(5)

        async def probe() -> None:
            told.append(await source(aggregate))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe)
            await server.wait_frozen(lambda: len(server.asked) == 2)
            mock_clock.jump(1)
            await server.settle()
            assert statistics(aggregate).hedges == 0
            probed.set()
        assert (told[0]["value"], told[0]["attempts"]) == (1, 1)


async def test_the_first_call_may_win_from_its_hedge(tmp_path: Path) -> None:
    second = trio.Event()

    async def behave(exchange: Exchange) -> None:
        if exchange.number == 1:
            await second.wait()
            await exchange.answer(b"1")
        else:
            second.set()
            await stall(exchange)

    async with upstream(behave) as server, views(tmp_path, one_source(server.url, "hedge_after = '20ms'")) as all:
        assert (await source(all))["value"] == 1
        assert (statistics(all).hedges, statistics(all).hedges_won) == (1, 0)
        await server.wait(lambda: server.open == 1)


async def test_a_hedge_stands_in_for_a_call_that_fails(tmp_path: Path) -> None:
    second = trio.Event()

    async def behave(exchange: Exchange) -> None:
        if exchange.number == 1:
            await second.wait()
            await exchange.stream.aclose()
        else:
            second.set()
            await trio.sleep(0.02)
            await exchange.answer(b"2")

    async with upstream(behave) as server, views(tmp_path, one_source(server.url, "hedge_after = '20ms'")) as all:
        assert (await source(all))["value"] == 2


async def test_where_both_fail_that_is_told(tmp_path: Path) -> None:
    second = trio.Event()

    async def behave(exchange: Exchange) -> None:
        if exchange.number == 2:
            second.set()
        await second.wait()
        await exchange.answer(status=500)

    async with upstream(behave) as server, views(tmp_path, one_source(server.url, "hedge_after = '20ms'")) as all:
        told = await source(all)
        assert (told["reason"], told["attempts"]) == ("status 500", 2)


async def test_without_time_there_is_no_call(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server, views(tmp_path, one_source(server.url, "hedge_after = '1s'")) as all:
        told = (await answer(all, seconds=0.0))["sources"]["s"]
        assert (told["reason"], told["attempts"], server.opened) == ("timeout", 0, 0)


# -- the breaker -------------------------------------------------------------------------------------------------------


async def test_a_breaker_opens_probes_and_closes(tmp_path: Path, mock_clock: MockClock) -> None:
    async with upstream(failing(4)) as server, views(tmp_path, one_source(server.url, _BREAKER)) as aggregate:
        assert [(await source(aggregate))["reason"] for _ in range(3)] == ["status 503"] * 3
        assert statistics(aggregate).breaker == "open"
        told = await source(aggregate)
        assert (told["reason"], told["attempts"], len(server.asked)) == ("breaker-open", 0, 3)
        mock_clock.jump(5)
        assert statistics(aggregate).breaker == "half-open"
        assert (await source(aggregate))["reason"] == "status 503"  # the probe
        assert (await source(aggregate))["reason"] == "breaker-open"
        mock_clock.jump(5)
        assert (await source(aggregate))["value"] == "ok"
        assert statistics(aggregate).breaker == "closed"
        assert (await source(aggregate))["value"] == "ok"


async def test_one_probe_at_a_time(tmp_path: Path, mock_clock: MockClock) -> None:
    async def behave(exchange: Exchange) -> None:
        await (stall(exchange) if exchange.number == 4 else exchange.answer(status=503))

    async with upstream(behave) as server, views(tmp_path, one_source(server.url, _BREAKER)) as aggregate:
        for _ in range(3):
            await source(aggregate)
        mock_clock.jump(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source, aggregate)
            await server.wait_frozen(lambda: len(server.asked) == 4)
            assert (await source(aggregate))["reason"] == "breaker-open"
            nursery.cancel_scope.cancel()
        # Who left has taken the probe with him; the next one may try.
        assert (await source(aggregate))["reason"] == "status 503"


async def test_failures_that_are_long_past_do_not_count(tmp_path: Path, mock_clock: MockClock) -> None:
    async with upstream(answering({}, 503)) as server, views(tmp_path, one_source(server.url, _BREAKER)) as aggregate:
        for _ in range(6):
            await source(aggregate)
            mock_clock.jump(6)
        assert (statistics(aggregate).breaker, len(server.asked)) == ("closed", 6)


@pytest.mark.parametrize(("statuses", "reason"), [("[404]", "breaker-open"), ("['5xx']", "status 404")])
async def test_which_statuses_count_is_said(statuses: str, reason: str, tmp_path: Path) -> None:
    breaker = f"breaker = {{failures = 1, statuses = {statuses}}}"
    async with upstream(answering({}, 404)) as server, views(tmp_path, one_source(server.url, breaker)) as aggregate:
        await source(aggregate)
        assert (await source(aggregate))["reason"] == reason


async def test_a_client_that_has_no_time_opens_no_breaker(tmp_path: Path) -> None:
    breaker = "breaker = {failures = 1}"
    async with upstream(stall) as server, views(tmp_path, one_source(server.url, breaker)) as aggregate:
        told = await answer(aggregate, seconds=0.05)
        assert told["sources"]["s"]["reason"] == "timeout"
        assert statistics(aggregate).breaker == "closed"


# -- what stands in ----------------------------------------------------------------------------------------------------


async def test_the_last_value_stands_in_for_its_time(tmp_path: Path, mock_clock: MockClock) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(b'"old"', 200 if exchange.number == 1 else 500)

    lines = ("stale_if_error = '60s'", "fallback = {n = 1}")
    async with upstream(behave) as server, views(tmp_path, one_source(server.url, *lines)) as aggregate:
        assert (await source(aggregate))["from"] == "live"
        stale = {"status": "fulfilled", "value": "old", "reason": "status 500", "attempts": 1, "from": "stale"}
        assert await source(aggregate) == stale
        mock_clock.jump(59)
        assert await source(aggregate) == stale
        mock_clock.jump(1)
        assert await source(aggregate) == stale | {"value": {"n": 1}, "from": "fallback"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422, 451, 499])
async def test_who_is_denied_a_value_gets_no_old_one(status: int, tmp_path: Path) -> None:
    statuses = iter([200, status, 503])

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(b'"old"', next(statuses))

    async with (
        upstream(behave) as server,
        views(tmp_path, one_source(server.url, "stale_if_error = '60s'", "fallback = 0")) as aggregate,
    ):
        assert (await source(aggregate))["from"] == "live"
        told = await source(aggregate)
        assert (told["reason"], told["from"], told["value"]) == (f"status {status}", "fallback", 0)
        assert aggregate.statistics().kept.count == 0
        assert (await source(aggregate))["from"] == "fallback"


@pytest.mark.parametrize("status", [304, 408, 425, 429, 500, 503])
async def test_who_is_refused_for_now_gets_the_old_value(status: int, tmp_path: Path) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(b"1" if exchange.number == 1 else b"", 200 if exchange.number == 1 else status)

    text = one_source("{}", "stale_if_error = '60s'")
    async with upstream(behave) as server, views(tmp_path, text.replace("{}", server.url)) as aggregate:
        assert [(await source(aggregate))["from"] for _ in range(3)] == ["live", "stale", "stale"]


async def test_a_value_is_kept_for_its_own_address(tmp_path: Path) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(b"1", 200 if exchange.number == 1 else 500)

    text = one_source("{}/{id}", "stale_if_error = '60s'")
    async with upstream(behave) as server, views(tmp_path, text.replace("{}", server.url)) as aggregate:
        assert (await source(aggregate, id="a"))["from"] == "live"
        assert (await source(aggregate, id="b"))["status"] == "rejected"
        assert (await source(aggregate, id="a"))["from"] == "stale"


async def test_what_stands_in_is_not_complete(tmp_path: Path) -> None:
    async with upstream(answering({}, 500)) as server, views(tmp_path, one_source(server.url, "fallback = []")) as all:
        assert (await answer(all))["complete"] is False


async def test_how_long_calls_take_is_told(tmp_path: Path) -> None:
    async with upstream(answering(1)) as server, views(tmp_path, one_source(server.url)) as aggregate:
        assert (statistics(aggregate).p50, statistics(aggregate).breaker) == (None, None)
        await source(aggregate)
        assert 0 < statistics(aggregate).p50 == statistics(aggregate).p99 < 30
