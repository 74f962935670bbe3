"""What waits is counted, ordered and found as if all of it were looked at each time."""

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.generation.sequence import Sequence
from serving.engine.generation.waiting import MAX_STALE, WaitingSequences
from serving.wire.messages import Row, SamplingSettings

pytestmark = pytest.mark.slow


PLAIN: Any = SimpleNamespace(beams=1)


def sequence(number: int, *, arrived: float = 0.0, prompt: int = 3, new: int = 5, deadline: float = 1e9) -> Sequence:
    tokens = numpy.zeros(prompt, dtype=numpy.int32).tobytes()
    row = Row(number, prompt, tokens, b"", "", deadline, b"", new, streams=True)
    return Sequence(b"f", row, arrived, SamplingSettings(new), frozenset(), PLAIN, None)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5), st.integers(1, 400), st.integers(1, 30)),
        st.tuples(st.just("remove"), st.integers(0, 50)),
        st.tuples(st.just("again"), st.integers(0, 50), st.booleans()),
        st.tuples(st.just("cancel"), st.lists(st.integers(0, 30), max_size=3, unique=True)),
        st.tuples(st.just("expire"), st.integers(0, 30)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_any_arrivals_and_departures_leave_what_a_plain_list_has(actions: list[Any]) -> None:
    waiting, expected = WaitingSequences(), list[Sequence]()
    for number, action in enumerate(actions):
        match action:
            case ("add", arrived, new, deadline):
                one = sequence(number, arrived=arrived, new=new, deadline=deadline)
                waiting.add(one)
                expected.append(one)
            case ("remove", place) if expected:
                waiting.remove(expected.pop(place % len(expected)))
            case ("again", place, has_begun) if expected:  # as one that lost its place
                one = expected.pop(place % len(expected))
                waiting.remove(one)
                one.sent = int(has_begun) or one.sent
                waiting.add(one)
                expected.append(one)
            case ("cancel", ids):
                gone = [one for one in expected if one.row.id in ids]
                assert waiting.cancel(b"other", ids) == []
                assert set(waiting.cancel(b"f", ids)) == set(gone)
                expected = [one for one in expected if one not in gone]
            case ("expire", now):
                gone = [one for one in expected if one.row.deadline <= now and not one.sent]
                assert set(waiting.expire(now)) == set(gone)
                expected = [one for one in expected if one not in gone]
        assert list(waiting) == sorted(expected, key=lambda one: one.priority)
        assert (len(waiting), waiting.tokens) == (len(expected), sum(one.max_length for one in expected))
    assert waiting.clear() == sorted(expected, key=lambda one: one.priority)
    assert (len(waiting), waiting.tokens, list(waiting)) == (0, 0, [])


def test_what_left_is_forgotten() -> None:
    waiting = WaitingSequences()
    for number in range(3 * MAX_STALE):
        waiting.add(sequence(number))
        waiting.cancel(b"f", [number])
        waiting.expire(0.0)
    assert len(waiting._deadlines) <= MAX_STALE + 1
