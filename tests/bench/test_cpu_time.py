"""From when on a process does nothing, in samples and of real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.cpu_time import Sample, clocks, free_since, sample, wait_calm

_SPINS = "print(flush=True)\nwhile True: pass"
_WAITS = "print(flush=True)\ninput()"


@settings(max_examples=50, deadline=None)
@given(
    work=st.lists(st.tuples(st.booleans(), st.floats(0, 0.01)), max_size=20),
    last=st.sampled_from([(True, 0.0), (False, 0.002), (True, 0.002)]),
    rests=st.integers(1, 20),
    gone=st.booleans(),
)
def test_a_process_is_free_from_the_first_sample_after_its_work(
    work: list[tuple[bool, float]], last: tuple[bool, float], rests: int, gone: bool
) -> None:
    """Each part of the work: whether it was seen to run, and what it took up to the next sample."""
    samples, cpu = list[Sample](), 1.0
    for at, (runs, took) in enumerate([*work, last]):
        samples.append(Sample(float(at), cpu, runs))
        cpu += took
    free = len(samples)
    samples += [Sample(float(free + at), 0.0 if gone else cpu, False) for at in range(rests)]
    assert free_since(samples) == free


def test_one_that_never_worked_was_free_at_once() -> None:
    assert free_since([Sample(3.0, 1.0, False), Sample(4.0, 1.0001, False)]) == 3


def test_one_that_works_at_the_end_is_not_free_before_it() -> None:
    assert free_since([Sample(3.0, 1.0, True), Sample(4.0, 1.1, True)]) == 4


@contextmanager
def _child(code: str) -> Generator[int]:
    """A child of this process that has begun."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_one_that_spins_runs_and_takes_time() -> None:
    with _child(_SPINS) as pid:
        first = sample(pid)
        while (then := sample(pid)).cpu < first.cpu + 0.01:
            pass
        assert first.runs
        assert then.runs
        assert clocks(os.getpid())[pid] >= then.cpu
        with pytest.raises(RuntimeError):
            wait_calm(pid, 0.5)


def test_one_that_waits_is_calm() -> None:
    with _child(_WAITS) as pid:
        wait_calm(pid, 20)
        assert not sample(pid).runs


def test_one_that_is_gone_does_nothing() -> None:
    with _child(_SPINS) as pid:
        pass
    assert (sample(pid).cpu, sample(pid).runs) == (0, False)
