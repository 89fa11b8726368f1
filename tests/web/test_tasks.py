"""``/debug/tasks``: who may see it, and how a request shows in it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from werkzeug.datastructures import Headers

from app.telemetry.tasks import task_tree
from app.web.task_words import vocabulary
from app.web.tasks import refusal
from tests.telemetry.test_tasks import found
from tests.web.wire import ask, wait

_SERVER = ("127.0.0.1", 3000)
_HERE = {"client": ("127.0.0.1", 4711), "server": _SERVER}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:3000", "127.0.0.1", "[::1]:3000", "LOCALHOST", "192.0.2.1:80"])
def test_who_is_on_this_machine_may_see_it(address: str, host: str) -> None:
    assert refusal({"client": (address, 1), "server": _SERVER}, Headers({"Host": host})) is None


def test_a_socket_of_the_file_system_is_on_this_machine() -> None:
    assert refusal({"client": None, "server": None}, Headers({"Host": "sluice"})) is None


@pytest.mark.parametrize(
    "client",
    [("192.0.2.1", 1), ("::ffff:192.0.2.1", 1), ("10.0.0.1", 1), ("fe80::1", 1), ("", 1), ("localhost", 1), None],
)
def test_who_is_elsewhere_may_not(client: Any) -> None:
    forged = Headers({"Host": "localhost", "X-Forwarded-For": "127.0.0.1"})
    for fields in (Headers({"Host": "localhost"}), forged):
        assert refusal({"client": client, "server": _SERVER}, fields) is not None


@pytest.mark.parametrize("name", ["Forwarded", "Via", "X-Forwarded-For", "X-Real-IP", "x-forwarded-host"])
def test_whoever_comes_by_a_proxy_may_not(name: str) -> None:
    assert refusal(_HERE, Headers({"Host": "localhost", name: "127.0.0.1"})) is not None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_page_whose_name_leads_here_may_not(host: str) -> None:
    assert refusal(_HERE, Headers({"Host": host})) is not None


async def test_a_request_shows_with_its_path_and_without_its_query() -> None:
    fields = {"x-request-id": "id-1", "sluice-deadline": "5"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(wait, fields, path="/thing", query_string=b"secret=1"))
        await wait_all_tasks_blocked()
        tree = await task_tree("test", vocabulary())
        nursery.cancel_scope.cancel()
    request = found(tree, "request")
    assert (request.name, request.request_id, request.waits_on) == ("GET /thing", "id-1", "sleep")
    assert request.age is not None
    assert request.deadline is not None
    assert 0 < request.deadline <= 5
