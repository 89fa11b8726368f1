"""Tools: peers that are commands, from one file to another, each started for one measurement."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import processes
from tests.bench.ground import Ground
from tests.bench.own import own_versions
from tests.bench.peer import IO_THREADS, SOURCES, Peer, told

_UPPER = SOURCES / "upper.js"


@dataclass(frozen=True)
class Tool:
    """command: of the steps (Sluice's), from a source to a target; a tool that does one thing only does that.

    careless: that it loses characters is told, and its result counts all the same.
    """

    command: Callable[[Path, Path, Sequence[str]], list[str]]
    environment: Mapping[str, str]
    careless: bool


class _Installed(Peer[Tool]):
    """A tool that somebody else has made startable: the distribution, or `make setup`."""

    careless = False

    def build(self) -> None:
        """Nothing is left to do."""

    @abstractmethod
    def command(self, source: Path, target: Path, steps: Sequence[str]) -> list[str]:
        """As `Tool.command`."""

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    @contextmanager
    def running(self) -> Generator[Tool]:
        yield Tool(self.command, self.environment(), self.careless)


class NodePipeline(_Installed):
    """The original's pipeline: each chunk as text of its own, so that a character on a border is lost."""

    name = "node-upper"
    title = "Node's pipeline"
    careless = True

    def command(self, source: Path, target: Path, steps: Sequence[str]) -> list[str]:
        return ["node", str(_UPPER), str(source), str(target)]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"UV_THREADPOOL_SIZE": IO_THREADS}

    def versions(self) -> dict[str, str]:
        return {"node": told(["node", "--version"]).lstrip("v")}


class Miller(_Installed):
    """Miller, which reads CSV and writes JSON Lines."""

    name = "miller"
    title = "Miller"

    def command(self, source: Path, target: Path, steps: Sequence[str]) -> list[str]:
        return _shell('exec mlr --icsv --ojsonl cat "$1" >"$2"', source, target)

    def versions(self) -> dict[str, str]:
        return {"miller": told(["mlr", "--version"]).split()[-1]}


class CopyAndHash(_Installed):
    """A file copied, then read once more for its digest."""

    name = "cp-sha256sum"
    title = "cp, then sha256sum"

    def command(self, source: Path, target: Path, steps: Sequence[str]) -> list[str]:
        return _shell('cp "$1" "$2" && sha256sum "$1"', source, target)

    def versions(self) -> dict[str, str]:
        return {"coreutils": told(["cp", "--version"]).splitlines()[0].split()[-1]}


class SluiceCommand(_Installed):
    """Sluice's own command."""

    name = "sluice-command"
    title = "python -m app transform"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._environment = processes.command_environment(ground.folder, {"SLUICE_IO_THREADS": IO_THREADS})

    def command(self, source: Path, target: Path, steps: Sequence[str]) -> list[str]:
        command = [processes.PYTHON, "-m", "app", "transform", str(source), str(target)]
        return [*command, *(word for step in steps for word in ("--step", step))]

    def environment(self) -> dict[str, str]:
        return self._environment

    def versions(self) -> dict[str, str]:
        return own_versions("sluice-server", "trio")


def _shell(script: str, *arguments: Path) -> list[str]:
    return ["sh", "-c", script, "sh", *map(str, arguments)]
