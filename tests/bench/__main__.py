"""``python -m tests.bench``: the same work against each peer in turn, interleaved and repeated."""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import record
from tests.bench.ground import Ground, open_ground
from tests.bench.peer import Peer
from tests.bench.process_group import raise_on_interrupts
from tests.bench.record import Round
from tests.bench.roster import PEERS
from tests.bench.work import Work
from tests.bench.works import WORKS

_BUILT = Path(__file__).parent / ".work"
_PROGRAMS = ("wrk", "node", "npm", "nginx", "mlr")


def main() -> None:
    arguments = _arguments()
    os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"  # nginx is often there, and not on a user's PATH
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        sys.exit(f"bench: missing: {', '.join(missing)}; `make bench` installs what it needs")
    _raise_file_limit()
    raise_on_interrupts()
    try:
        with _alone(), open_ground(_BUILT) as ground:
            found = _run(ground, [WORKS[name] for name in arguments.work], arguments)
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
    except RuntimeError as error:
        sys.exit(f"bench: {error}")
    if found:
        sys.exit("bench: these rounds do not count\n" + "\n".join(found))


def _run(ground: Ground, works: Sequence[Work[Any]], arguments: argparse.Namespace) -> list[str]:
    """Builds, measures, prints and writes. Returns the problems, in words."""
    peers = {name: PEERS[name](ground) for name in dict.fromkeys(name for work in works for name in work.peers)}
    versions = {"mariadb": {"mariadb": ground.database_version}}
    for name, peer in peers.items():
        _say(f"building {name}")
        peer.build()
        versions[name] = peer.versions()
    busy = record.busy_share(1)
    _say(f"{busy:.0%} of the CPUs are in use before the first round")
    done: list[Round] = []
    for work in works:
        work.prepare(ground, quick=arguments.quick)
        seconds, rounds = work.seconds(arguments.seconds), arguments.rounds or work.rounds
        for number in range(1, rounds + 1):
            # Another one is first in each round, so that none always follows the same.
            order = [*work.peers[(number - 1) % len(work.peers) :], *work.peers[: (number - 1) % len(work.peers)]]
            for name in order:
                done.append(_measure(work, peers[name], ground, number, seconds, quick=arguments.quick))
                _say(_line(work, done[-1]))
        lasts = work.lasts(seconds, quick=arguments.quick)
        print(f"\n## {work.name}: {work.title}; medians of {rounds} × {lasts}\n\n{record.table(work, done)}\n")
        print(f"{record.verdict_table(record.verdicts(work, done))}\n", flush=True)
    run = {"seconds": arguments.seconds, "quick": arguments.quick, "busy_before": busy}
    _say(f"written to {record.write(works, done, versions, run).relative_to(Path(__file__).parent)}")
    return record.problems(done)


def _measure(work: Work[Any], peer: Peer[Any], ground: Ground, number: int, seconds: int, *, quick: bool) -> Round:
    """One peer, started anew; nothing else of ours runs but the database. A peer that fails has a problem to tell."""
    busy = record.busy_share()
    try:
        with peer.running() as running:
            measured = work.measure(running, ground, seconds, quick=quick)
    except RuntimeError as error:
        return Round(work.name, peer.name, number, busy, {}, [str(error)])
    return Round(work.name, peer.name, number, busy, measured.figures, measured.problems)


def _raise_file_limit() -> None:
    """For everything that is started here: thousands of connections are some of the work."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _alone() -> Generator[None]:
    """Two runs at once would measure each other."""
    _BUILT.mkdir(exist_ok=True)
    with (_BUILT / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("bench: another run is under way in this checkout")
        yield


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--seconds", type=_count, help="of load in each round (10); three times that of slow readers and uploads"
    )
    parser.add_argument(
        "--rounds",
        type=_count,
        help="of each work against each peer (5, or 3 of those with large bodies or many connections)",
    )
    parser.add_argument("--work", action="append", choices=WORKS, help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="one round of a second: whether it all works")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (1 if arguments.quick else 10)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else None)
    arguments.work = list(dict.fromkeys(arguments.work or WORKS))
    return arguments


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 600")
    return int(text)


def _line(work: Work[Any], one: Round) -> str:
    """The work's first column that is told with its spread stands for the rest."""
    first = next(column for column in work.columns if column.spread)
    told = "; ".join(one.problems) or f"{one.figures[first.figure]:{first.form}} {first.heading}"
    return f"{one.work} {one.number}: {one.peer}: {told}"


def _say(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr, flush=True)


main()
