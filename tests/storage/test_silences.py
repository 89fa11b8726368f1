"""Who is dead, by looks alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.silences import Silences

DEAD, MOST = 10.0, 4.0
# Each step: seconds that pass, and what is then seen of the other: nothing, as nobody could look; or its beat.
STEPS = st.lists(st.tuples(st.floats(0, 30), st.none() | st.integers(0, 1)), max_size=30)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_dead_is_who_showed_the_same_for_long_enough_in_looks_without_a_failure(
    steps: list[tuple[float, int | None]],
) -> None:
    silences, now = Silences(DEAD, MOST), 0.0
    silent, last = 0.0, None
    for seconds, beat in steps:
        now += seconds
        if beat is None:
            silences.miss()
        else:
            silences.look({"other": beat}, now)
        silent = silent + min(seconds, MOST) if beat == last is not None else 0.0
        last = beat
        if abs(silent - DEAD) > 1e-6:
            assert silences.dead() == ({"other": beat} if silent >= DEAD and beat is not None else {})


@given(st.lists(st.sets(st.sampled_from("abc")), max_size=20))
@settings(max_examples=100, deadline=None)
def test_who_left_is_not_dead_and_who_comes_again_is_new(looks: list[set[str]]) -> None:
    silences, seen = Silences(3.0, 1.0), dict.fromkeys("abc", 0)
    for now, there in enumerate(looks):
        silences.look(dict.fromkeys(there, 1), float(now))
        seen = {id: seen[id] + 1 if id in there else 0 for id in seen}
        assert silences.dead() == {id: 1 for id, looks in seen.items() if looks > 3}


def test_who_is_forgotten_has_its_time_anew() -> None:
    silences = Silences(2.0, 1.0)
    for now in (0.0, 1.0, 2.0):
        silences.look({"a": 1, "b": 1}, now)
    silences.forget("a")
    assert silences.dead() == {"b": 1}
    silences.look({"a": 1, "b": 1}, 3.0)
    assert silences.dead() == {"b": 1}
