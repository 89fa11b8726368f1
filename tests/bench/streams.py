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


def _upper(kind: str, title: str, *, command: float, http: float | None) -> Piped:
    """command, http: what each shall be at least, in multiples of Node's pipeline from file to file."""
    words = "MB/s over HTTP ÷ Node's from file to file"
    return Piped(
        name=f"upper-{kind}",
        title=title,
        kind=kind,
        steps=("upper",),
        check=is_upper,
        peers=("node-upper", "sluice-command", "sluice-mysql"),
        reference="node-upper",
        columns=(*_columns("Node"), Column("lost", "characters lost, in pieces", ",.0f")),
        targets=(
            Target("MB/s ÷ Node's", "sluice-command", "mb_per_second", to="node-upper", at_least=command),
            Target(words, "sluice-mysql", "mb_per_second", to="node-upper", at_least=http),
        ),
    )


UPPER_ASCII = _upper(
    "ascii",
    "upper, a file of ASCII: a command from file to file, a server over HTTP in and out",
    command=2.5,
    http=1.5,
)
UPPER_MIXED = _upper(
    "mixed",
    "upper, a file of Latin, Greek, Cyrillic and Chinese in UTF-8: a command, a server over HTTP",
    command=1.5,
    http=None,
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
