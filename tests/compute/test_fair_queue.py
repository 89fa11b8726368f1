"""The queue in which clients take turns, against one that is simple and slow."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.compute.fair_queue import FairQueue

CLIENTS = st.sampled_from("abc")


class Queue(RuleBasedStateMachine):
    """clients: in the order of their turns, each with what it has put in. back: what comes first, whoever's it is."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue()
        self.clients: list[tuple[str, list[int]]] = []
        self.back: list[int] = []
        self.owners: list[str] = []
        self.taken: list[int] = []

    def _next(self) -> int | None:
        return self.back[0] if self.back else self.clients[0][1][0] if self.clients else None

    @rule(client=CLIENTS)
    def put(self, client: str) -> None:
        item = len(self.owners)
        self.owners.append(client)
        self.queue.put(client, item)
        for name, items in self.clients:
            if name == client:
                items.append(item)
                return
        self.clients.append((client, [item]))

    @rule()
    def take(self) -> None:
        wanted = self._next()
        if wanted is None:
            with pytest.raises(IndexError):
                self.queue.take()
            return
        assert self.queue.take() == wanted
        self.taken.append(wanted)
        if self.back:
            del self.back[0]
            return
        client, items = self.clients.pop(0)
        if items[1:]:
            self.clients.append((client, items[1:]))

    @precondition(lambda self: self.taken)
    @rule(count=st.integers(0, 3))
    def put_back(self, count: int) -> None:
        items = self.taken[len(self.taken) - count :] if count else []
        del self.taken[len(self.taken) - len(items) :]
        self.queue.put_back(items)
        self.back = items + self.back

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        item = data.draw(st.integers(0, len(self.owners) - 1))
        waits = item in self.back or any(item in items for _, items in self.clients)
        assert self.queue.remove(self.owners[item], item) == waits
        self.back = [each for each in self.back if each != item]
        left = [(client, [each for each in items if each != item]) for client, items in self.clients]
        self.clients = [(client, items) for client, items in left if items]

    @invariant()
    def it_is_as_long_and_begins_with_the_same(self) -> None:
        assert len(self.queue) == len(self.back) + sum(len(items) for _, items in self.clients)
        assert self.queue.first() == self._next()


Queue.TestCase.settings = settings(max_examples=100, deadline=None, stateful_step_count=40)
TestQueue = Queue.TestCase


def test_a_greedy_client_does_not_keep_others_waiting() -> None:
    queue: FairQueue[str] = FairQueue()
    for at in range(100):
        queue.put("greedy", f"greedy {at}")
    queue.put("modest", "modest")
    assert "modest" in [queue.take() for _ in range(2)]


def test_another_clients_item_is_not_removed() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 1)
    assert not queue.remove("b", 1)
    assert len(queue) == 1
