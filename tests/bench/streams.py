"""Rows of pipelines: the case of text, and CSV as NDJSON."""

from __future__ import annotations

from tests.bench.checks import is_ndjson, is_upper
from tests.bench.piped import Piped
from tests.bench.targets import Target
from tests.bench.work import Column


def _columns(reference: str) -> tuple[Column, ...]:
    return (
        Column("mb_per_second", "MB/s taken", ",.0f", ratio=f"× {reference}", spread=True),
        Column("seconds", "s", ".2f"),
        Column("first_byte_ms", "first byte ms", ",.1f"),
        Column("cpu_seconds", "CPU s", ".2f"),
        Column("rss_mib", "RSS MiB", ",.0f"),
        Column("growth_mib", "growth MiB (RssAnon)", ",.1f"),
    )


_LOST = Column("lost", "characters lost, in pieces", ",.0f")

UPPER_ASCII = Piped(
    name="upper-ascii",
    title="upper, a file of ASCII: a command from file to file, a server over HTTP in and out",
    kind="ascii",
    steps=("upper",),
    check=is_upper,
    peers=("node-upper", "sluice-command", "sluice-mysql"),
    reference="node-upper",
    columns=(*_columns("Node"), _LOST),
    targets=(
        Target("MB/s ÷ Node's", "sluice-command", "mb_per_second", to="node-upper", at_least=2.5),
        Target(
            "MB/s over HTTP ÷ Node's from file to file",
            "sluice-mysql",
            "mb_per_second",
            to="node-upper",
            at_least=1.5,
        ),
    ),
)

UPPER_MIXED = Piped(
    name="upper-mixed",
    title="upper, a file of Latin, Greek, Cyrillic and Chinese in UTF-8: a command, a server over HTTP",
    kind="mixed",
    steps=("upper",),
    check=is_upper,
    peers=("node-upper", "sluice-command", "sluice-mysql"),
    reference="node-upper",
    columns=(*_columns("Node"), _LOST),
    targets=(
        Target("MB/s ÷ Node's", "sluice-command", "mb_per_second", to="node-upper", at_least=1.5),
        Target("MB/s over HTTP ÷ Node's from file to file", "sluice-mysql", "mb_per_second", to="node-upper"),
    ),
)

CSV = Piped(
    name="csv",
    title="csv-to-ndjson: a command from file to file, a server over HTTP in and out",
    kind="csv",
    steps=("csv-to-ndjson",),
    check=is_ndjson,
    peers=("miller", "sluice-command", "sluice-mysql"),
    reference="miller",
    rounds=3,
    columns=_columns("Miller"),
    targets=(
        Target("MB/s over HTTP ÷ Miller's", "sluice-mysql", "mb_per_second", to="miller", at_least=4),
        Target("MB/s ÷ Miller's", "sluice-command", "mb_per_second", to="miller"),
    ),
)
