"""The demo data: real reports, the same bytes each time they are made."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.units import cm
from reportlab.platypus import Flowable, PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

_USERS = ("test-user", "ada", "grace", "edsger", "barbara@example.com")
_ROW = "{number},2026-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z,station-{station:03},{value:.3f},{state}\n"
_BLOCK_ROWS = 2000


@dataclass(frozen=True)
class DemoReport:
    """A report to store. ``make`` yields its bytes, the same each time, however large it is."""

    user_id: str
    media_type: str
    make: Callable[[], Iterator[bytes]]

    def digest(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.make():
            digest.update(chunk)
        return digest.hexdigest()


def demo_reports() -> list[DemoReport]:
    """PDF reports of about 20 KB, for ``test-user`` and some others."""
    return [DemoReport(user, "application/pdf", lambda user=user: iter([_pdf(user)])) for user in _USERS]


def large_report(size: int) -> DemoReport:
    """A CSV report of ``size`` bytes up to the next end of a line, for ``large-report``."""
    return DemoReport("large-report", "text/csv", lambda: _csv(size))


def _csv(size: int) -> Iterator[bytes]:
    chance = random.Random(20260101)
    written = number = 0
    yield (header := b"number,time,station,value,state\n")
    written += len(header)
    while written < size:
        lines: list[str] = []
        for _ in range(_BLOCK_ROWS):
            number += 1
            lines.append(_row(number, chance))
            written += len(lines[-1])
            if written >= size:
                break
        yield "".join(lines).encode("ascii")


def _row(number: int, chance: random.Random) -> str:
    minutes = number % (28 * 24 * 60)
    return _ROW.format(
        number=number,
        month=number // (28 * 24 * 60) % 12 + 1,
        day=minutes // 1440 + 1,
        hour=minutes // 60 % 24,
        minute=minutes % 60,
        station=chance.randrange(200),
        value=chance.gauss(20, 5),
        state=chance.choice(("ok", "ok", "ok", "late", "faulty")),
    )


def _pdf(user: str) -> bytes:
    chance = random.Random(user)
    target = io.BytesIO()
    document = SimpleDocTemplate(
        target,
        pagesize=A4,
        title=f"Report of {user}",
        author="Sluice",
        invariant=1,  # no time of making: the same bytes each time
    )
    document.build(list(_story(user, chance)))
    return target.getvalue()


def _story(user: str, chance: random.Random) -> Iterator[Flowable]:
    styles = getSampleStyleSheet()
    yield Paragraph("Station report", styles["Title"])
    yield Paragraph(f"for <b>{user}</b>, January to June 2026", styles["Normal"])
    yield Spacer(1, cm)
    for month in ("January", "February", "March", "April", "May", "June"):
        rows = [["Station", "Readings", "Mean", "Least", "Most", "Faults"], *_readings(chance)]
        yield Paragraph(month, styles["Heading2"])
        yield Table(rows, repeatRows=1, colWidths=[3.5 * cm, *[2.7 * cm] * 5], style=_TABLE)
        yield PageBreak()


def _readings(chance: random.Random) -> Iterator[list[str]]:
    for station in range(36):
        values = sorted(chance.gauss(20, 5) for _ in range(3))
        readings, faults = str(chance.randrange(600, 745)), str(chance.randrange(4))
        yield [f"station-{station:03}", readings, *(f"{values[i]:.2f}" for i in (1, 0, 2)), faults]


_TABLE = TableStyle(
    [
        ("BACKGROUND", (0, 0), (-1, 0), colors.HexColor("#1a2530")),
        ("TEXTCOLOR", (0, 0), (-1, 0), colors.white),
        ("FONTNAME", (0, 0), (-1, 0), "Helvetica-Bold"),
        ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
        ("FONTSIZE", (0, 0), (-1, -1), 9),
        ("ROWBACKGROUNDS", (0, 1), (-1, -1), [colors.white, colors.HexColor("#eef2f6")]),
    ]
)
