"""``sha256``: of a stored report."""

from __future__ import annotations

import hashlib

from app.compute.tasks import StoredReport, progress, task

_PIECE = 1024 * 1024


@task(name="sha256", retry=True)
def sha256(report: StoredReport) -> dict[str, str | int]:
    """The SHA-256 of a stored report, in hexadecimal, and its size in bytes."""
    digest = hashlib.sha256()
    size = 0
    piece = bytearray(_PIECE)
    view = memoryview(piece)
    with report.open() as file:
        while count := file.readinto(piece):
            digest.update(view[:count])
            size += count
            progress(size, report.size)
    return {"sha256": digest.hexdigest(), "size": size}
