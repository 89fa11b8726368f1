"""The tree of tasks, as it is now, in the words of a `Vocabulary`. Nothing is recorded while nobody asks.

Trio knows which task is whose child, and each task's coroutine which one it awaits, down to what it waits on.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
)
from typing import Any, cast

import trio

from app.flow.request import current_request
from app.telemetry.nodes import Named, Node
from app.telemetry.vocabulary import Vocabulary, code_of

MOST_NODES = 20_000
# After so long the others' turn comes.
_SLICE_SECONDS = 0.005
_DEEPEST = 200
_LONGEST_NAME = 300
_AWAITABLE = (CoroutineType, AsyncGeneratorType, GeneratorType)
_IN_THREAD = code_of(trio.to_thread.run_sync)
_WAITS_FOR_THREAD = code_of(trio.CapacityLimiter.acquire_on_behalf_of)
_FUNCTIONS = (partial, FunctionType, MethodType, BuiltinFunctionType)
# Whose tasks are which room's, where they are not a room's own.
_ROOMS_OF_OTHERS = {"trio_parallel": "compute", "hypercorn": "wire", "trio": "trio"}
# What a client has brought is no room's; and nothing that these wait on has tasks of its own.
_NO_ROOMS = frozenset(("connection", "request"))
_LEAVES = frozenset(("thread", "query"))


async def task_tree(name: str, vocabulary: Vocabulary, most: int = MOST_NODES) -> Node:
    """All tasks below one node, the server's, called ``name``: connections, the tasks of each room, others.

    Bound: ``most`` nodes; that some are left out is told by a node of the kind ``more``. It takes about 20 µs a task,
    in slices of `_SLICE_SECONDS`, between which the tree may change: what began meanwhile may be missing.

    *Cancellation*: harmless.
    """
    root = trio.lowlevel.current_root_task()
    tree = _Tree(vocabulary, most, Node("server", name))
    if root is None:
        return tree.top
    tree.waiting.append((root, tree.top))
    began = time.perf_counter()
    while tree.waiting:
        if not tree.take(*tree.waiting.pop()):
            break
        if time.perf_counter() - began > _SLICE_SECONDS:
            await trio.lowlevel.checkpoint()
            began = time.perf_counter()
    return tree.finish()


type _Step = tuple[CodeType, Any]
"""A coroutine on a task's stack, or a frame, after its code. (Its own frame is made when somebody asks for it.)"""


@dataclass(slots=True)
class _Tree:
    """waiting: tasks that have no node yet, and the nodes that theirs go below."""

    vocabulary: Vocabulary
    most: int
    top: Node
    waiting: list[tuple[trio.lowlevel.Task, Node]] = field(default_factory=list[tuple[trio.lowlevel.Task, Node]])
    rooms: dict[str, Node] = field(default_factory=dict[str, Node])
    count: int = 0

    def take(self, task: trio.lowlevel.Task, parent: Node) -> bool:
        """Puts ``task`` below ``parent``, and remembers its children; False where there are too many already."""
        if self.count >= self.most:
            self.waiting.append((task, parent))
            return False
        steps = _steps(task)
        node = parent if self._is_hoisted(task, steps) else self._add(task, steps, parent)
        for nursery in task.child_nurseries:
            # The last is taken first.
            self.waiting.extend((child, node) for child in sorted(nursery.child_tasks, key=_number, reverse=True))
        return True

    def finish(self) -> Node:
        left = len(self.waiting)
        if left:
            self.top.children.append(
                Node("more", f"{self.most} nodes are shown; {left} tasks and what is below are not")
            )
        self.top.children.sort(key=_order)
        return self.top

    def _is_hoisted(self, task: trio.lowlevel.Task, steps: list[_Step]) -> bool:
        return task.parent_nursery is None or self.vocabulary.is_hoisted(code for code, _ in steps)

    def _add(self, task: trio.lowlevel.Task, steps: list[_Step], parent: Node) -> Node:
        """A node for each thing that the stack stands for, one below the other; the one that its children go to."""
        named = list(_named(steps, self.vocabulary)) or [_task(task)]
        if parent is self.top and named[0].kind not in _NO_ROOMS and (room := _room_of(task)) is not None:
            parent = self._room(room)
        deadline, request_id, node = _deadline(task), _request_id(task), parent
        owner = parent
        for index, one in enumerate(named):
            following = named[index + 1].kind if index + 1 < len(named) else self._waits_on(task, steps)
            node = _child(node, one, one.waits_on or following, one.request_id or request_id, deadline)
            owner = owner if one.kind in _LEAVES else node
            self.count += 1
        return owner

    def _waits_on(self, task: trio.lowlevel.Task, steps: list[_Step]) -> str | None:
        if task is trio.lowlevel.current_task() or getattr(task, "_next_send_fn", None) is not None:
            return None
        return self.vocabulary.waits_on([code for code, _ in steps])

    def _room(self, name: str) -> Node:
        if name not in self.rooms:
            self.rooms[name] = Node("room", name)
            self.top.children.append(self.rooms[name])
            self.count += 1
        return self.rooms[name]


def _child(parent: Node, named: Named, waits_on: str | None, request_id: str | None, deadline: float) -> Node:
    left = min(deadline, named.deadline)
    node = Node(
        named.kind,
        named.name[:_LONGEST_NAME],
        request_id,
        None if named.age is None else round(max(0.0, named.age), 6),
        None if left == math.inf else round(max(0.0, left), 6),
        waits_on,
    )
    parent.children.append(node)
    return node


def _order(node: Node) -> tuple[bool, bool, str]:
    """Connections as they came, then what else there is, then the rooms by name."""
    return node.kind == "more", node.kind == "room", node.name if node.kind == "room" else ""


# -- a task's stack ----------------------------------------------------------------------------------------------------


def _steps(task: trio.lowlevel.Task) -> list[_Step]:
    """From the outermost one in. Of the task that asks, what is called by now."""
    if task is trio.lowlevel.current_task():
        return list(_running(task))[::-1]
    steps: list[_Step] = []
    awaited: Any = task.coro
    for _ in range(_DEEPEST):
        kind = cast("type[object]", type(awaited))
        if kind is CoroutineType:
            steps.append((awaited.cr_code, awaited))
            awaited = awaited.cr_await
        elif kind is AsyncGeneratorType:
            steps.append((awaited.ag_code, awaited))
            awaited = awaited.ag_await
        elif kind is GeneratorType:
            steps.append((awaited.gi_code, awaited))
            awaited = awaited.gi_yieldfrom
        elif awaited is None:
            break
        else:  # such as what `anext` gives, which tells nobody but the collector
            awaited = _within(awaited)
    return steps


def _frame_of(step: Any) -> FrameType | None:
    kind = cast("type[object]", type(step))
    if kind is CoroutineType:
        return step.cr_frame
    if kind is AsyncGeneratorType:
        return step.ag_frame
    return step.gi_frame if kind is GeneratorType else step


def _within(awaited: Any) -> Any:
    return next((one for one in gc.get_referents(awaited) if type(one) in _AWAITABLE), None)


def _running(task: trio.lowlevel.Task) -> Iterator[_Step]:
    frame: FrameType | None = sys._getframe()
    outermost = getattr(task.coro, "cr_frame", None)
    while frame is not None:
        yield frame.f_code, frame
        if frame is outermost:
            return
        frame = frame.f_back


def _named(steps: list[_Step], vocabulary: Vocabulary) -> Iterator[Named]:
    for index, (code, step) in enumerate(steps):
        is_thread = code is _IN_THREAD
        naming = vocabulary.naming(code)
        if not (is_thread or naming) or (frame := _frame_of(step)) is None:
            continue
        if is_thread:
            inner = [further for further, _ in steps[index + 1 :]]
            if inner and _WAITS_FOR_THREAD not in inner:
                yield Named("thread", _function_name(frame.f_locals.get("sync_fn")), waits_on="the function")
            return
        named = None if naming is None else naming(frame.f_locals)
        if named is not None:
            yield named


def _function_name(function: Any) -> str:
    """Of what is called in a thread, below the wrappings."""
    while type(function) is partial:
        first: Any = function.args[0] if function.args else None
        function = first if type(first) in _FUNCTIONS else function.func
    return getattr(function, "__qualname__", None) or type(function).__name__


def _number(task: trio.lowlevel.Task) -> int:
    """In the order in which they began."""
    return getattr(task, "_counter", 0)


def _task(task: trio.lowlevel.Task) -> Named:
    return Named("task", task.name)


def _room_of(task: trio.lowlevel.Task) -> str | None:
    frame = getattr(task.coro, "cr_frame", None)
    module: str = "" if frame is None else frame.f_globals.get("__name__", "")
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "app" else _ROOMS_OF_OTHERS.get(package)


def _request_id(task: trio.lowlevel.Task) -> str | None:
    request = task.context.get(current_request)
    return None if request is None else request.id


def _deadline(task: trio.lowlevel.Task) -> float:
    """Seconds until the nearest of the scopes that it is in ends it; 0 where one has."""
    status = getattr(task, "_cancel_status", None)
    if status is None:
        return math.inf
    return status.effective_deadline() - trio.current_time()
