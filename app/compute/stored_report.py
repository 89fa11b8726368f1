"""A stored report as an argument of a task."""

from __future__ import annotations

from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path


@dataclass(frozen=True)
class StoredReport:
    """A report that the server has opened for one run of a task; in JSON it is the user id, a string.

    size: in bytes. path: leads to the bytes as they were when it was opened, while the task runs.
    """

    user_id: str
    media_type: str
    size: int
    path: str

    def open(self) -> BufferedReader:
        """The bytes, from the first one on; the caller closes it."""
        return Path(self.path).open("rb")
