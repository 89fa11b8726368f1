"""HTTP dates (RFC 9110 5.6.7)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

_FORMATS = (
    "%a, %d %b %Y %H:%M:%S GMT",  # IMF-fixdate, the one that is sent
    "%A, %d-%b-%y %H:%M:%S GMT",  # RFC 850, obsolete
    "%a %b %d %H:%M:%S %Y",  # asctime, obsolete
)


def format_date(seconds: int) -> str:
    """IMF-fixdate of ``seconds`` since the epoch."""
    return formatdate(seconds, usegmt=True)


def parse_date(text: str) -> int | None:
    """Seconds since the epoch, or None where ``text`` is no HTTP date in any of the three formats.

    A recipient treats a date that it cannot read as absent (RFC 9110 13.1.3, 13.1.4).
    """
    for number, form in enumerate(_FORMATS):
        try:
            moment = datetime.strptime(text.strip(), form).replace(tzinfo=UTC)
            if number == 1:
                # A two-digit year that seems more than 50 years ahead is the most recent past year (RFC 9110 5.6.7).
                latest = datetime.now(UTC).year + 50
                moment = moment.replace(year=latest - (latest - moment.year) % 100)
        except ValueError:
            continue
        return int(moment.timestamp())
    return None
