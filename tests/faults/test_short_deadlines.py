"""A deadline that passes at any moment is told, or the answer is whole; it is never an empty reply."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.processes import running


@pytest.mark.parametrize("path", ["/healthz", "/api/report/test-user"])
def test_a_small_answer_is_whole_or_a_problem_however_short_the_deadline(path: str, folder: Path) -> None:
    seen: set[int] = set()
    with running(folder) as server, httpx.Client(base_url=server.url) as client:
        whole = len(client.get(path).content)
        for microseconds in range(50, 6000, 50):
            answer = client.get(path, headers={"Sluice-Deadline": f"{microseconds / 1e6:.6f}"})
            seen.add(answer.status_code)
            assert answer.status_code == 504 or len(answer.content) == whole
    assert 504 in seen
