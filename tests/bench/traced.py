"""What traces cost: the headline's request with and without them, a tenth of the requests sampled."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from tests import processes
from tests.bench.own import Sluice
from tests.bench.peer import SOURCES, Server
from tests.bench.process_group import has_ended, process_group, tail
from tests.bench.wrk import report_pair
from tests.mariadb import free_port

SHARE = "0.1"

_START_SECONDS = 20


class SluiceTraced(Sluice):
    """Sluice on MariaDB; of its requests a tenth is sampled, and sent to a collector that takes all."""

    name = "sluice-traced"
    title = "Sluice on MariaDB, 10 % traced"

    @contextmanager
    def running(self) -> Generator[Server]:
        """With its collector."""
        self._port = free_port()
        log = self.ground.folder / f"collector-{time.monotonic_ns()}.log"
        command = [processes.PYTHON, str(SOURCES / "span_sink.py"), str(self._port)]
        with log.open("wb") as output, process_group(command, self.ground.folder, output) as sink:
            deadline = time.monotonic() + _START_SECONDS
            while b"ready" not in log.read_bytes():
                if has_ended(sink) or time.monotonic() > deadline:
                    raise RuntimeError(f"the collector did not start:\n{tail(log)}")
                time.sleep(0.05)
            with super().running() as server:
                yield server

    def environment(self, port: int) -> dict[str, str]:
        given = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": SHARE,
        }
        return super().environment(port) | given


TRACED = report_pair(
    "traced",
    "a user's report of 20 KB, 50 connections, one worker each: without traces, and with a tenth of them",
    without="sluice-mysql",
    having="sluice-traced",
    called="untraced",
    target="requests/s ÷ untraced",
    at_least=0.85,
)
