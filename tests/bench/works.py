"""The works that there are."""

from __future__ import annotations

from tests.bench.beside import IDLE, SLOW_READERS
from tests.bench.transfers import DOWNLOAD, SLOW_UPLOAD
from tests.bench.work import Work
from tests.bench.wrk import HELLO, REPORT, ROUTE

WORKS: dict[str, Work] = {work.name: work for work in (REPORT, HELLO, ROUTE, DOWNLOAD, SLOW_READERS, SLOW_UPLOAD, IDLE)}
