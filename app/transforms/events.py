"""Steps on one record at a time, each for itself: such as an event. No Trio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.transforms.chain import feed
from app.transforms.plan import BadStep, Content, make_plan
from app.transforms.record_steps import STEPS
from app.transforms.step import Kind, Malformed

# The others count records, or remember them.
_OF_ONE_RECORD = ("select", "drop", "rename", "where")
_STEPS = {step.name: step for step in STEPS if step.name in _OF_ONE_RECORD}


def on_each_record(asked: Sequence[str]) -> Callable[[bytes], bytes | None]:
    """What the steps ``asked`` for make of a record, JSON in one line; None where nothing is left of it, and where it
    is no object, or one that a step cannot take.

    *Errors*: ValueError, which says what is wrong with a step.
    """
    if not asked:
        return lambda record: record
    try:
        plan = make_plan(_STEPS, asked, Content(Kind.NDJSON, ""))
    except BadStep as error:
        raise ValueError(error.detail) from error

    chain = [chosen.make() for chosen in plan.chosen]

    def run(record: bytes) -> bytes | None:
        nonlocal chain
        try:
            given = b"".join(feed(chain, record + b"\n"))
        except Malformed:
            chain = [chosen.make() for chosen in plan.chosen]  # where the old ones are, nobody knows
            return None
        return given.rstrip(b"\n") or None

    return run
