"""A queue in which clients take turns, and each is served in its own order."""

from __future__ import annotations

from collections import OrderedDict, deque


class FairQueue[T]:
    """Bound: none of its own; whoever puts something in looks at `len` first.

    Of what `put_back` returned, the first comes first, whoever's it is.
    """

    def __init__(self) -> None:
        self._back: deque[T] = deque()
        self._turns: OrderedDict[str, deque[T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, client: str, item: T) -> None:
        self._turns.setdefault(client, deque()).append(item)
        self._size += 1

    def put_back(self, items: list[T]) -> None:
        """``items``, which were taken out and are in order, are the next ones again."""
        self._back.extendleft(reversed(items))
        self._size += len(items)

    def first(self) -> T | None:
        """The next one, which stays."""
        if self._back:
            return self._back[0]
        for items in self._turns.values():
            return items[0]
        return None

    def take(self) -> T:
        """The next one. *Errors*: IndexError where there is none."""
        if self._back:
            self._size -= 1
            return self._back.popleft()
        if not self._turns:
            raise IndexError("the queue is empty")
        client, items = self._turns.popitem(last=False)
        item = items.popleft()
        if items:
            self._turns[client] = items  # behind all others
        self._size -= 1
        return item

    def remove(self, client: str, item: T) -> bool:
        """Takes ``item`` out, wherever it is; False where it is not in."""
        if item in self._back:
            self._back.remove(item)
        elif item in self._turns.get(client, ()):
            items = self._turns[client]
            items.remove(item)
            if not items:
                del self._turns[client]
        else:
            return False
        self._size -= 1
        return True
