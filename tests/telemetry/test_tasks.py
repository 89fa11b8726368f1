"""The tree of tasks, of tasks that wait on what there is to wait on."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from app.flow.channels import open_channel
from app.flow.pipelines import open_pipeline
from app.flow.request import RequestScope, current_request
from app.flow.threads import ThreadPool
from app.telemetry.nodes import Node, as_text
from app.telemetry.tasks import task_tree
from app.web.task_words import vocabulary

_WORDS = vocabulary()


def nodes(root: Node) -> list[Node]:
    return [root, *(below for child in root.children for below in nodes(child))]


def found(root: Node, kind: str, name: str = "") -> Node:
    (node,) = [node for node in nodes(root) if node.kind == kind and name in node.name]
    return node


async def tree_of(*calls: Callable[[], Awaitable[object]], most: int = 1000) -> Node:
    """The tree while each of ``calls`` waits in a task."""

    async def waiting(call: Callable[[], Awaitable[object]]) -> None:
        await call()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(waiting, call, name="the task")
        await wait_all_tasks_blocked()
        tree = await task_tree("test", _WORDS, most)
        nursery.cancel_scope.cancel()
    return tree


async def _in_generator() -> None:
    async def generated() -> AsyncGenerator[int]:
        await trio.Event().wait()
        yield 1

    async for _ in generated():
        pass


async def _send_to_nobody() -> None:
    writer, _reader = open_channel(1)
    await writer.send(b"xx")
    await writer.send(b"xx")


async def _receive_from_nobody() -> None:
    _writer, reader = open_channel(1)
    await reader.take(10)


async def _for_a_limiter() -> None:
    limiter = trio.CapacityLimiter(1)
    await limiter.acquire_on_behalf_of(object())
    async with limiter:
        pass


async def _for_a_lock() -> None:
    lock = trio.Lock()

    async def holds(task_status: trio.TaskStatus[None]) -> None:
        async with lock:
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(holds, name="the holder")
        await lock.acquire()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (trio.sleep_forever, "sleep"),
        (partial(trio.sleep, 1000), "sleep"),
        (_in_generator, "event"),
        (_send_to_nobody, "channel full"),
        (_receive_from_nobody, "channel empty"),
        (_for_a_limiter, "limiter"),
        (_for_a_lock, "lock"),
    ],
    ids=["sleep_forever", "sleep", "generator", "full", "empty", "limiter", "lock"],
)
async def test_what_a_task_waits_on_is_told(call: Callable[[], Awaitable[object]], word: str) -> None:
    assert found(await tree_of(call), "task", "the task").waits_on == word


async def test_the_task_that_asks_waits_on_nothing() -> None:
    asking = next(node for node in nodes(await task_tree("test", _WORDS)) if "test_the_task_that_asks" in node.name)
    assert asking.waits_on is None


async def test_a_call_in_a_thread_is_named() -> None:
    ended = threading.Event()
    pool = ThreadPool("test", 1)

    def called() -> None:
        ended.wait(20)

    try:
        call = partial(pool.run_interruptible, called, ended.set)
        tree = await tree_of(call, call)
    finally:
        ended.set()
    assert found(tree, "thread").name.endswith("called")
    assert [node.waits_on for node in nodes(tree) if node.name == "the task"] == ["limiter"]


async def test_stages_of_a_pipeline_are_named_with_what_they_wait_on() -> None:
    async def source() -> AsyncGenerator[bytes]:
        yield b"x"
        await trio.sleep_forever()

    async def upper(reader: object, writer: object) -> None:
        async for _ in reader:  # type: ignore[attr-defined] # pyright: ignore
            pass

    async def pipeline() -> None:
        async with open_pipeline(source(), upper) as output:
            async for _ in output:
                pass

    tree = await tree_of(pipeline)
    assert found(tree, "stage", "source").waits_on == "sleep"
    assert found(tree, "stage", "upper").waits_on == "channel empty"
    assert {node.name for node in found(tree, "task", "the task").children} == {"source", "upper"}


async def test_a_task_tells_the_nearest_deadline_and_its_request() -> None:
    async def late() -> None:
        current_request.set(RequestScope("id-1"))
        with trio.move_on_after(100), trio.move_on_after(1000):
            await trio.sleep_forever()

    task = found(await tree_of(late), "task", "the task")
    assert task.deadline is not None
    assert 50 < task.deadline <= 100
    assert task.request_id == "id-1"


async def test_more_than_the_bound_is_told_and_not_shown() -> None:
    tree = await tree_of(*[trio.sleep_forever] * 50, most=20)
    shown = nodes(tree)
    assert len(shown) <= 22
    assert found(tree, "more").name.startswith("20 nodes are shown")
    assert tree.children[-1].kind == "more"


async def test_a_deep_tree_is_no_matter() -> None:
    async def deeper(left: int) -> None:
        async with trio.open_nursery() as nursery:
            if left:
                nursery.start_soon(deeper, left - 1)
            await trio.sleep_forever()

    tree = await tree_of(partial(deeper, 300))
    assert as_text(tree).count("deeper") == 300


async def test_others_get_their_turn_while_it_is_made() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3000):
            nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        turns = 0
        tree = await task_tree("test", _WORDS)
        nursery.cancel_scope.cancel()
    assert len(nodes(tree)) > 3000
    assert turns > 0


async def test_it_is_json() -> None:
    decoded = msgspec.json.decode(msgspec.json.encode(await tree_of(trio.sleep_forever)))
    assert list(decoded) == ["kind", "name", "request_id", "age", "deadline", "waits_on", "children"]


@settings(max_examples=100, deadline=None)
@given(st.text(), st.one_of(st.none(), st.text()), st.one_of(st.none(), st.floats(0, 1e6)))
def test_each_node_is_a_line_of_text_that_steers_no_terminal(name: str, id: str | None, age: float | None) -> None:
    text = as_text(Node("request", name, id, age, age, None, [Node("task", name)]))
    assert text.endswith("\n")
    assert len(text.splitlines()) == 2
    assert text.replace("\n", "").isprintable()
