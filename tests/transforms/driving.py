"""Steps driven as a pipeline drives them: pieces of any size, pickled between pieces, told apart by what comes out."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from app.transforms.step import PIECE_BYTES, Malformed, Step, Transformer

thorough = settings(derandomize=True, deadline=None, max_examples=400)
quick = settings(derandomize=True, deadline=None, max_examples=60)

cuts = st.lists(st.integers(1, 12), min_size=1, max_size=6)
"""The sizes of pieces, taken in turn until the data is used up."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave: all of its bytes, and the members of the error that ended it, if one did."""

    given: bytes
    members: dict[str, object] | None = None

    @property
    def failed(self) -> bool:
        return self.members is not None

    @property
    def offset(self) -> int:
        assert self.members is not None
        offset: Any = self.members["offset"]
        return offset


def steps(*collections: tuple[Step, ...]) -> dict[str, Step]:
    return {step.name: step for collection in collections for step in collection}


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` cut into pieces of these sizes, over and over."""
    cut: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(cut) % len(sizes)]
        cut.append(data[at : at + size])
        at += size
    return cut


def run(transformer: Transformer, data: bytes, sizes: list[int] | None = None, *, pickled: bool = False) -> Outcome:
    """The outcome of ``data`` in pieces of ``sizes`` (in one piece without)."""
    given: list[bytes] = []
    try:
        for piece in pieces(data, sizes or [max(1, len(data))]):
            for out in transformer.feed(piece):
                given.append(out)
            if transformer.done:
                break
            if pickled:
                transformer = pickle.loads(pickle.dumps(transformer))
        given.extend(transformer.finish())
    except Malformed as error:
        return _failed(b"".join(given), error, data)
    assert all(0 < len(out) <= 2 * PIECE_BYTES for out in given)
    return Outcome(b"".join(given))


def _failed(given: bytes, error: Malformed, data: bytes) -> Outcome:
    outcome = Outcome(given, dict(error.members))
    assert 0 <= outcome.offset <= len(data)
    assert f"byte {outcome.offset}: " in error.detail
    return outcome


def corrupted(data: bytes, replacements: bytes) -> list[bytes]:
    """``data`` cut off at each position, and with each byte replaced, left out and doubled."""
    changed: list[bytes] = []
    for at in range(len(data)):
        changed.append(data[:at])
        changed.append(data[:at] + data[at + 1 :])
        changed.extend(data[:at] + bytes([byte]) + data[at + 1 :] for byte in replacements)
        changed.extend(data[:at] + bytes([byte]) + data[at:] for byte in replacements)
    return changed
