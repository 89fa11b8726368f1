"""A work: what is asked of each peer, by which load, and what is read off."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.ground import Ground
from tests.bench.peer import Server
from tests.bench.process_group import Usage, has_ended, process_group, tail, usage
from tests.bench.targets import Target

MIB = 2**20

_SAMPLE_SECONDS = 0.1
_READY_SECONDS = 60
_GRACE_SECONDS = 30  # what a load may take beyond its time


@dataclass(frozen=True)
class Column:
    """A figure in the table. ``ratio``: also told as a multiple of the reference peer's, under that heading."""

    figure: str
    heading: str
    form: str
    ratio: str = ""
    spread: bool = False


@dataclass(frozen=True)
class Measurement:
    """figures: by name. problems: why they do not count, in words; none when they do."""

    figures: dict[str, float]
    problems: list[str]


@dataclass(frozen=True, kw_only=True)
class Work[Running](ABC):
    """The same for each of ``peers``; ratios are to ``reference``.

    rounds: against each peer, unless the command says otherwise. factor: how often the command's seconds it lasts;
    at_least: seconds that it needs in any case.
    """

    name: str
    title: str
    peers: tuple[str, ...]
    reference: str
    columns: tuple[Column, ...]
    targets: tuple[Target, ...]
    rounds: int = 5
    factor: int = 1
    at_least: int = 1

    def seconds(self, given: int) -> int:
        return max(self.at_least, given * self.factor)

    def lasts(self, seconds: int, *, quick: bool) -> str:
        """A measurement, in words."""
        return f"{seconds} s"

    def prepare(self, ground: Ground, *, quick: bool) -> None:  # noqa: B027 - most need nothing
        """What the ground needs for it, once."""

    @abstractmethod
    def measure(self, peer: Running, ground: Ground, seconds: int, *, quick: bool) -> Measurement:
        """Of a peer that has just been started. *Errors*: RuntimeError."""


@dataclass(frozen=True)
class Watched:
    """A server's processes over a while: what they used before and after it, and samples in between."""

    before: Usage
    samples: list[Usage]
    after: Usage

    @property
    def cpu(self) -> float:
        """Seconds of it."""
        return self.after.cpu - self.before.cpu

    @property
    def rss_mib(self) -> float:
        """The greatest."""
        return max(one.rss for one in (*self.samples, self.after)) / MIB

    @property
    def anon(self) -> list[int]:
        """Bytes, sample by sample."""
        return [one.anon for one in (*self.samples, self.after)]

    def growth_mib(self, start: float) -> float:
        """The greatest RssAnon, less ``start`` (bytes). RSS itself would count files that the server maps."""
        return (max(self.anon) - start) / MIB

    def serving_growth_mib(self, start: float) -> float:
        """The same, without the processes that work for the server's."""
        return (max(one.serving for one in (*self.samples, self.after)) - start) / MIB


class Load:
    """A program that puts load on a server, and runs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def wait_ready(self) -> None:
        """Until it says so. *Errors*: RuntimeError."""
        deadline = time.monotonic() + _READY_SECONDS
        while not any("ready" in line for line in self.lines()):
            if has_ended(self.process) or time.monotonic() > deadline:
                raise RuntimeError(f"the load did not get ready: {tail(self._log)}")
            time.sleep(0.02)

    def watch(self, server: Server, seconds: float) -> Watched:
        """Until it ends, or that time is over."""
        deadline = time.monotonic() + seconds
        before, samples = usage(server.pid), list[Usage]()
        while not has_ended(self.process) and time.monotonic() < deadline:
            samples.append(usage(server.pid))
            time.sleep(_SAMPLE_SECONDS)
        return Watched(before, samples, usage(server.pid))

    def watch_to_end(self, server: Server, seconds: float) -> Watched:
        """As `watch`, of one that is to last ``seconds``; some more are granted."""
        return self.watch(server, seconds + _GRACE_SECONDS)

    def lines(self) -> list[dict[str, Any]]:
        """What it has said in JSON so far."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def summary(self) -> dict[str, Any]:
        """Its last word, with the problems that there are, once it has ended."""
        said = self.lines()
        if self.process.returncode != 0:
            return {"problems": [f"the load ended with {self.process.returncode}: {tail(self._log)[-500:]}"]}
        return said[-1] if said else {"problems": [f"the load said nothing of use: {tail(self._log)[-500:]}"]}


@contextmanager
def load(command: Sequence[str], ground: Ground) -> Generator[Load]:
    """``command``, ended at the end of the block."""
    log = ground.folder / f"load-{time.monotonic_ns()}.log"
    with log.open("wb") as output, process_group(command, ground.folder, output) as process:
        yield Load(process, log)


def wrong_answer(server: Server, path: str, right: Callable[[bytes], bool], posted: str = "") -> list[str]:
    """What is wrong with the server's answer there, to JSON if some is posted, in words; nothing, mostly."""
    try:
        status, found = server.ask("POST" if posted else "GET", path, _GRACE_SECONDS, posted)
    except (OSError, http.client.HTTPException) as error:
        return [f"no answer: {error!r}"]
    if status != 200:
        return [f"status {status}"]
    return [] if right(found) else [f"{len(found)} bytes that are not the right ones: {found[:60]!r}"]
