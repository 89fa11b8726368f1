"""Tasks of a plug-in, which behave in all the ways that tasks do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from app.compute import Cancelled, checkpoint, progress, span, task


@task(name="echo")
def echo(value: Any) -> Any:
    """What it is given."""
    return value


_as_it_came: list[msgspec.Raw] = []


@task(name="keep-raw")
def keep_raw(value: msgspec.Raw) -> list[int]:
    """Keeps what it is given, as it came; how long everything is that it has kept."""
    _as_it_came.append(value)
    return [len(bytes(each)) for each in _as_it_came]


@task(name="pid")
def pid() -> int:
    """The process that it runs in."""
    return os.getpid()


@task(name="hold")
def hold(begun: str, then: str | None = None) -> str:
    """Tells that it has begun; checks in until ``then`` exists, and tells how it was ended."""
    Path(begun).write_text(str(os.getpid()))
    try:
        while not (then and Path(then).exists()):
            checkpoint()
            time.sleep(0.001)
    except Cancelled:
        Path(begun).with_suffix(".ended").write_text("cleaned up")
        raise
    return "done"


@task(name="hold-again", retry=True)
def hold_again(begun: str, then: str | None = None) -> str:
    """Likewise; what it does may be done twice."""
    return hold(begun, then)


@task(name="spin")
def spin(begun: str) -> None:
    """Never checks in."""
    Path(begun).write_text(str(os.getpid()))
    while True:
        pass


@task(name="swallow")
def swallow(begun: str) -> None:
    """Goes on when it is told to end."""
    Path(begun).write_text(str(os.getpid()))
    while True:
        try:
            checkpoint()
        except Cancelled:
            Path(begun).with_suffix(".told").touch()


@task(name="count")
def count(path: str, fails: int = 0) -> int:
    """How often it was run, for that path; the first of them fail."""
    with Path(path).open("a+") as file:
        file.write("x")
        file.flush()
        runs = file.tell()
    if runs <= fails:
        raise LookupError("not yet")
    return runs


@task(name="stubborn")
def stubborn(begun: str, then: str) -> str:
    """Ends when it likes."""
    Path(begun).write_text(str(os.getpid()))
    while not Path(then).exists():
        pass
    return "done"


@task(name="steps")
def steps(count: int) -> str:
    """Reports each of its steps."""
    for step in range(count):
        progress(step + 1, count, f"step {step + 1}")
        time.sleep(0.06)
    return "done"


@task(name="hurry")
def hurry(count: int, fails: bool) -> None:
    """Reports more often than anybody can look, up to its end."""
    for step in range(count):
        progress(step + 1, count, f"step {step + 1}")
    if fails:
        raise LookupError("there is no such thing")


@task(name="report-oddly")
def report_oddly() -> None:
    """Reports what is no number, when it would not be passed on anyway."""
    progress(1)
    progress("x")  # type: ignore[arg-type]


@task(name="segfault")
def segfault() -> None:
    """Reads where there is nothing."""
    ctypes.string_at(0)


@task(name="leave")
def leave(code: int) -> None:
    """Ends its process."""
    os._exit(code)


@task(name="exit")
def leave_politely() -> None:
    """Raises what ends other programs."""
    sys.exit(3)


@task(name="stop")
def stop() -> None:
    """Is killed by somebody."""
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="fork")
def fork(leaves: bool) -> str:
    """Forks, and does not keep the child from coming back: with a result, or by what ends other programs."""
    child = os.fork()
    if not child and leaves:
        sys.exit(0)
    if child:
        os.waitpid(child, 0)
    return "done"


@task(name="garble")
def garble(text: str) -> str:
    """Writes into whatever pipe it finds."""
    for entry in Path("/proc/self/fd").iterdir():
        descriptor = int(entry.name)
        if descriptor > 2 and entry.is_fifo():
            with suppress(OSError):
                os.write(descriptor, text.encode())
    return "done"


@task(name="chatter")
def chatter(size: int) -> str:
    """Returns much, while its threads tell of their progress."""
    said = threading.Barrier(3)

    def talk() -> None:
        said.wait()
        for step in range(2000):
            progress(step, None, "x" * 1000)
            progress_of_others.wait(0.0001)

    progress_of_others = threading.Event()
    for _ in range(2):
        threading.Thread(target=talk, daemon=True).start()
    said.wait()
    return "x" * size


@task(name="allocate")
def allocate(size: int) -> int:
    """Takes memory."""
    return len(bytearray(size))


@task(name="compute")
def compute() -> None:
    """Takes a processor, in Python."""
    while True:
        pass


@task(name="compute-in-c")
def compute_in_c() -> int:
    """Takes a processor, where no signal handler of Python's runs."""
    return sum(range(10**12))


@task(name="unusable")
def unusable() -> object:
    """Returns what JSON has no word for."""
    return object()


@task(name="much")
def much(size: int) -> str:
    """Returns much."""
    return "x" * size


class _Odd(Exception):
    def __init__(self, first: object, second: object) -> None:
        super().__init__(first, second)
        self.lock = open(os.devnull)  # noqa: SIM115, PTH123 - cannot be pickled

    def __str__(self) -> str:
        return "odd \ud800 text"


@task(name="fail")
def fail(how: str = "plainly") -> None:
    """Raises."""
    if how == "oddly":
        raise _Odd(lambda: 1, object())
    raise LookupError("there is no such thing")


_kept: list[bytes] = []


@task(name="keep")
def keep(size: int) -> None:
    """Keeps memory for good."""
    _kept.append(b"x" * size)
    time.sleep(0.01)


@task(name="leave-a-child")
def leave_a_child(seconds: float) -> None:
    """Is killed while a process that it forked, which has copies of its pipes, lives on."""
    if not os.fork():
        time.sleep(seconds)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="parts")
def parts(count: int) -> bool:
    """Has so many parts, and parts within; whether OpenTelemetry is loaded."""
    for number in range(count):
        with span("part", number=number, text="x" * 1000), span("within"):
            pass
    return any(name.startswith("opentelemetry") for name in sys.modules)
