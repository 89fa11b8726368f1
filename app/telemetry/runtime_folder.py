"""The folder in which the workers of one master keep their sockets and counts. No Trio: files, in threads.

``NAME.sock`` is where a worker answers, ``NAME.counts`` what it last told, ``ended`` the counts of workers that are no
more, and which those are. A worker writes its counts before it tells them: what a scrape has seen stays, whatever ends
the worker.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from app.telemetry.snapshots import Snapshot, decode, encode, merge, only_counts

_FOLDER = re.compile(r"sluice-(?P<user>[0-9]+)-(?P<pid>[0-9]+)-(?P<start>[0-9]+)")
# Names of ended workers that are remembered: one of them may have answered a scrape that is still under way.
_MOST_ENDED = 1000


class _Ended(msgspec.Struct):
    counts: bytes
    names: list[str] = []


class RuntimeFolder:
    """That of the workers of the process ``parent``; made when it is opened. *Errors* of everything here: OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, parent: int) -> RuntimeFolder:
        """*Errors*: OSError, also where somebody else has it."""
        path = _path_of(parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{path} is not a private folder of ours")
        _sweep(path.parent)
        return cls(path)

    def names(self) -> list[str]:
        """Of the workers that have a socket."""
        return sorted(path.stem for path in self.path.glob("*.sock"))

    def socket(self, name: str) -> Path:
        return self.path / f"{name}.sock"

    def write(self, name: str, snapshot: Snapshot) -> None:
        """What the worker ``name`` is about to tell."""
        target = self.path / f"{name}.counts"
        partial = target.with_suffix(f".{os.getpid()}.new")
        partial.write_bytes(encode(only_counts(snapshot)))
        partial.replace(target)

    def others(self, answered: dict[str, Snapshot], gone: Iterable[str]) -> list[Snapshot]:
        """What those have counted that answered, those that did not, and those that have ended; each once.

        gone: those that did not answer because they are no more; what they have left is put to the ended ones' counts.
        """
        with self._locked():
            ended = self._read_ended()
            kept = {path.stem for path in self.path.glob("*.counts")} - set(ended.names) - set(answered)
            counts = {name: self._read_counts(name) for name in kept}
            dead = sorted(set(gone) | {name for name in kept if not self.socket(name).exists()})
            if dead:
                self._bury(ended, [name for name in dead if name not in ended.names], counts)
            alive = [snapshot for name, snapshot in answered.items() if name not in ended.names]
            silent = [snapshot for name, snapshot in counts.items() if name not in dead]
            return [*alive, *silent, decode(ended.counts)]

    def leave(self, name: str) -> None:
        """The worker ``name`` ends in good order."""
        self.socket(name).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _bury(self, ended: _Ended, names: Sequence[str], counts: dict[str, Snapshot]) -> None:
        """A crash in between leaves the old state or the new one: files of those who are named are not read again."""
        ended.counts = encode(merge([decode(ended.counts), *(counts[name] for name in names if name in counts)]))
        ended.names = [*ended.names, *names][-_MOST_ENDED:]
        partial = self.path / "ended.new"
        partial.write_bytes(msgspec.msgpack.encode(ended))
        partial.replace(self.path / "ended")
        for name in names:
            for suffix in ("sock", "counts"):
                (self.path / f"{name}.{suffix}").unlink(missing_ok=True)

    def _read_ended(self) -> _Ended:
        try:
            return msgspec.msgpack.decode((self.path / "ended").read_bytes(), type=_Ended)
        except (FileNotFoundError, msgspec.MsgspecError):
            return _Ended(encode({}))

    def _read_counts(self, name: str) -> Snapshot:
        try:
            return decode((self.path / f"{name}.counts").read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError):
            return {}

    @contextmanager
    def _locked(self) -> Generator[None]:
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def remove_of(parent: int) -> None:
    """Removes the folder of the workers of ``parent``, if there is one. In a process that it forked: nothing."""
    if parent == os.getpid():
        with suppress(OSError):
            RuntimeFolder(_path_of(parent)).remove()


def _path_of(parent: int) -> Path:
    return Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}-{parent}-{_start_of(parent)}"


def _sweep(where: Path) -> None:
    """Removes folders of ours whose parent is dead."""
    for path in where.glob(f"sluice-{os.getuid()}-*"):
        found = _FOLDER.fullmatch(path.name)
        if found is None:
            continue
        try:
            is_alive = _start_of(int(found["pid"])) == int(found["start"])
        except OSError:
            is_alive = False
        if not is_alive:
            shutil.rmtree(path, ignore_errors=True)


def _start_of(pid: int) -> int:
    """When a process began, in the kernel's ticks: who gets its number later began later."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
