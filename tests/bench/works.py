"""The works that there are."""

from __future__ import annotations

from typing import Any

from tests.bench.aggregate import AGGREGATE
from tests.bench.beside import IDLE, SLOW_READERS
from tests.bench.beside_streams import BESIDE_CSV, BESIDE_UPPER
from tests.bench.compute import BESIDE_COMPUTE, BESIDE_JSON, COMPUTE_SUM, COMPUTE_TRIVIAL
from tests.bench.leave import COMPUTE_LEAVE
from tests.bench.live import LIVE_FAN_OUT, LIVE_PUBLISH, LIVE_STALLED
from tests.bench.stored import LIST, PUT
from tests.bench.stream_memory import MEMORY, RECORDS_MEMORY
from tests.bench.streams import CSV, UPPER_ASCII, UPPER_MIXED
from tests.bench.traced import TRACED
from tests.bench.transfers import DOWNLOAD, SLOW_UPLOAD
from tests.bench.work import Work
from tests.bench.wrk import HELLO, REPORT, ROUTE, TELEMETRY

WORKS: dict[str, Work[Any]] = {
    work.name: work
    for work in (
        REPORT,
        TRACED,
        TELEMETRY,
        HELLO,
        ROUTE,
        DOWNLOAD,
        SLOW_READERS,
        SLOW_UPLOAD,
        IDLE,
        UPPER_ASCII,
        UPPER_MIXED,
        CSV,
        PUT,
        LIST,
        BESIDE_UPPER,
        BESIDE_CSV,
        COMPUTE_SUM,
        COMPUTE_TRIVIAL,
        BESIDE_COMPUTE,
        BESIDE_JSON,
        COMPUTE_LEAVE,
        AGGREGATE,
        LIVE_FAN_OUT,
        LIVE_STALLED,
        LIVE_PUBLISH,
        MEMORY,
        RECORDS_MEMORY,
    )
}
