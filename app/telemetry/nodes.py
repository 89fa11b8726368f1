"""The tree of what a server is at, as it is shown: nodes, and their words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

_INDENT = "  "


@dataclass(slots=True)
class Named:
    """What a function on a task's stack stands for, in the words of whoever runs the server.

    age: in seconds, or None. deadline: seconds left, infinite where there is none but the task's. waits_on: where it
    knows better than the stack.
    """

    kind: str
    name: str
    request_id: str | None = None
    age: float | None = None
    deadline: float = math.inf
    waits_on: str | None = None


class Node(msgspec.Struct):
    """age, deadline: seconds, since it began and left until it is ended. waits_on: None where it runs, or is about to.

    request_id: of the request that it belongs to.
    """

    kind: str
    name: str
    request_id: str | None = None
    age: float | None = None
    deadline: float | None = None
    waits_on: str | None = None
    children: list[Node] = msgspec.field(default_factory=list["Node"])


def as_text(root: Node) -> str:
    """A line for each node, indented by its depth; what a client has sent cannot steer a terminal."""
    return "".join(f"{_INDENT * depth}{_line(node)}\n" for depth, node in _walk(root))


def _walk(root: Node) -> Iterator[tuple[int, Node]]:
    left = [(0, root)]
    while left:
        depth, node = left.pop()
        yield depth, node
        left.extend((depth + 1, child) for child in reversed(node.children))


def _line(node: Node) -> str:
    said = [f"{node.kind} {_printable(node.name)}"]
    if node.request_id is not None and node.kind in {"request", "job"}:
        said.append(f"id {_printable(node.request_id)}")
    if node.age is not None:
        said.append(f"age {_seconds(node.age)}")
    if node.deadline is not None:
        said.append(f"{_seconds(node.deadline)} left")
    if node.waits_on is not None:
        said.append(f"waits on {_printable(node.waits_on)}")
    return ", ".join(said)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.0f} s"
