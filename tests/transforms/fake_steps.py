"""Steps that show what a pipeline does with them; in a module, as worker processes import them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from app.transforms.step import BadArguments, Kind, Malformed, Place, Step


class Lines:
    """Passes whole lines on; ``bad`` is refused, ``place`` becomes where it was read, ``many:N`` gives N bytes."""

    done = False

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            yield from self._line(line)

    def finish(self) -> Iterator[bytes]:
        if self._rest:
            yield from self._line(self._rest)

    def _line(self, line: bytes) -> Iterator[bytes]:
        if line == b"bad":
            raise Malformed("a bad line", members={"line": 3, "offset": 7})
        if line == b"place":
            yield b"%d %d\n" % (os.getpid(), threading.get_ident())
        elif line.startswith(b"many:"):
            for _ in range(int(line[5:]) // 65536):
                yield b"m" * 65536
        else:
            yield line + b"\n"


class First:
    """The first ``count`` bytes."""

    def __init__(self, count: int) -> None:
        self._left = count

    @property
    def done(self) -> bool:
        return not self._left

    def feed(self, piece: bytes) -> Iterator[bytes]:
        taken = piece[: self._left]
        self._left -= len(taken)
        if taken:
            yield taken

    def finish(self) -> Iterator[bytes]:
        return iter(())


class Nothing:
    """Drops everything."""

    done = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        return iter(())

    def finish(self) -> Iterator[bytes]:
        return iter(())


class Doubled:
    """Everything twice; holds all of it, and gives it at the end."""

    done = False

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        self._held += piece
        return iter(())

    def finish(self) -> Iterator[bytes]:
        yield self._held
        yield self._held


def _first(arguments: str | None) -> First:
    if not (arguments or "").isdigit():
        raise BadArguments("a number of bytes")
    return First(int(arguments or 0))


def _step(name: str, place: Place, make: object) -> Step:
    return Step(name, "", name, frozenset(Kind), None, "a line", place, make)  # type: ignore[arg-type]


REGISTRY = {
    step.name: step
    for step in (
        *(_step(f"lines-{place}", place, lambda _: Lines()) for place in ("loop", "thread", "process")),
        *(_step(f"first-{place}", place, _first) for place in ("loop", "thread", "process")),
        _step("doubled", "loop", lambda _: Doubled()),
        _step("nothing", "process", lambda _: Nothing()),
    )
}
