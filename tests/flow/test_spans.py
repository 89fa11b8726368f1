"""Spans, and the trees that they make."""

from __future__ import annotations

import threading

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from app.errors import NotFound
from app.flow import spans
from app.flow.spans import CANCELLED_BY, NOTHING, Span, Tree, begin_trace, current, recording, run_within, span
from app.flow.threads import ThreadPool
from app.http.request_ids import Trace, continue_trace


class Kept:
    """What was recorded."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.spans: list[Span] = []
        self.left_out = 0
        self._sampled = sampled

    def put(self, span: Span) -> None:
        self.spans.append(span)

    def samples(self, trace_id: int, continued: Trace | None) -> bool:
        return self._sampled

    def canceller(self, error: BaseException) -> str | None:
        return error.reason if isinstance(error, trio.Cancelled) else None

    def leave_out(self) -> None:
        self.left_out += 1

    def named(self, name: str) -> Span:
        (found,) = [one for one in self.spans if one.name == name]
        return found


def begin(kept: Kept) -> Span:
    _, root = begin_trace(None)
    assert root is not None
    run_within(root)
    return root


def test_without_a_recorder_there_is_nothing() -> None:
    assert span("a") is NOTHING
    assert current() is None
    with span("a") as one:
        one.say(a=1)
        one.end()
    assert begin_trace(None) == (None, None)


async def test_outside_of_a_sampled_request_there_is_nothing() -> None:
    kept = Kept()
    with recording(kept), span("a"):
        assert current() is None
    assert kept.spans == []


async def test_spans_form_a_tree_also_in_tasks_that_are_started_within() -> None:
    kept = Kept()

    async def task() -> None:
        with span("inner"):
            await trio.lowlevel.checkpoint()

    with recording(kept):
        root = begin(kept)
        with span("outer", {"a": 1}) as outer:
            outer.say(b__c=2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(task)
        with span("next"):
            pass
        root.end()
        root.end()
    assert [one.name for one in kept.spans] == ["inner", "outer", "next", ""]
    inner, outer, following, root = kept.spans
    assert (inner.parent, outer.parent, following.parent, root.parent) == (outer.id, root.id, root.id, None)
    assert outer.attributes == {"a": 1, "b.c": 2}
    assert {one.tree for one in kept.spans} == {root.tree}
    assert all(one.began <= one.ended for one in kept.spans)


async def test_an_error_is_told_by_its_name_and_a_cancellation_by_who_it_was() -> None:
    kept = Kept()
    with recording(kept):
        begin(kept)
        with pytest.raises(NotFound), span("ours"):
            raise NotFound("x")
        with pytest.raises(ZeroDivisionError), span("foreign"):
            raise ZeroDivisionError
        for reason in ("disconnected", "deadline"):
            with trio.CancelScope() as scope, span(reason):
                scope.cancel(reason)
                await trio.sleep_forever()
    told = {one.name: (one.is_error, one.attributes) for one in kept.spans}
    assert told == {
        "ours": (True, {"error.type": "not-found"}),
        "foreign": (True, {"error.type": "ZeroDivisionError"}),
        "disconnected": (False, {CANCELLED_BY: "disconnected"}),
        "deadline": (True, {CANCELLED_BY: "deadline", "error.type": "deadline"}),
    }


async def test_a_tree_has_so_many_spans_and_the_others_are_counted() -> None:
    kept = Kept()
    with recording(kept):
        run_within(Span(Tree(1, kept, 3), "root", None, "server", {}))
        for _ in range(5):
            with span("one"), span("within"):
                pass
    assert len(kept.spans) == 2  # the root has not ended
    assert kept.left_out == 8


async def test_a_call_in_a_thread_tells_its_wait_apart_from_its_run() -> None:
    kept, pool = Kept(), ThreadPool("narrow", 1)
    first, go = threading.Event(), threading.Event()

    def hold() -> None:
        first.set()
        go.wait(30)

    with recording(kept):
        root = begin(kept)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, hold)
            await trio.to_thread.run_sync(first.wait)
            nursery.start_soon(pool.run, int)
            scope = trio.CancelScope()
            nursery.start_soon(_in_scope, scope, pool)
            await wait_all_tasks_blocked()
            scope.cancel("disconnected")
            await wait_all_tasks_blocked()
            go.set()
    assert {one.parent for one in kept.spans} == {root.id}
    assert [(one.name, one.attributes.get(CANCELLED_BY)) for one in kept.spans] == [
        ("thread wait", "disconnected"),
        ("thread run", None),
        ("thread wait", None),
        ("thread run", None),
    ]
    assert {one.attributes["sluice.pool"] for one in kept.spans} == {"narrow"}
    held, waited, ran = kept.spans[1:]
    assert waited.ended == ran.began >= held.ended


async def _in_scope(scope: trio.CancelScope, pool: ThreadPool) -> None:
    with scope:
        await pool.run(int)


hexadecimal = st.integers(1, 2**64 - 1).map("{:016x}".format)


@given(trace=st.integers(1, 2**128 - 1).map("{:032x}".format), parent=hexadecimal, sampled=st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_caller_s_trace_is_continued(trace: str, parent: str, sampled: bool) -> None:
    continued = continue_trace(f"00-{trace}-{parent}-01".encode())
    with recording(Kept(sampled=sampled)):
        begun, root = begin_trace(continued)
    assert begun is not None
    assert (begun.trace_id, begun.parent_id, begun.is_sampled) == (trace, parent, sampled)
    assert continue_trace(begun.traceparent.encode()) is not None
    assert (root is not None) is sampled
    if root is not None:
        assert (root.traceparent, root.parent) == (begun.traceparent, int(parent, 16))


@pytest.mark.parametrize("sampled", [True, False])
def test_without_a_caller_s_a_new_trace_begins(sampled: bool) -> None:
    with recording(Kept(sampled=sampled)):
        begun = [begin_trace(None)[0] for _ in range(50)]
    found = {one.trace_id for one in begun if one is not None and continue_trace(one.traceparent.encode())}
    assert len(found) == 50


def test_recorders_follow_each_other() -> None:
    with recording(Kept()):
        with recording(Kept()):
            pass
        assert spans._recorder is not None
    assert spans._recorder is None
