"""The raw hello on Sluice's wire, without Sluice's application."""

from __future__ import annotations

from tests.bench.peers import raw_hello
from tests.under_hypercorn import bare

app = bare(raw_hello.app)
