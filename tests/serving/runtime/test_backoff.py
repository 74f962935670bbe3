import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.runtime.backoff import SPREAD, backoff_seconds, jittered, jittered_by


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (10_000, 30.0)])
def test_each_failure_doubles_the_pause_up_to_the_longest(failures: int, seconds: float) -> None:
    assert backoff_seconds(0.5, failures, 30.0) == seconds


@given(first=st.floats(0.001, 100), failures=st.integers(1, 10**9), longest=st.floats(0.001, 10**6))
def test_a_pause_never_shrinks_and_never_passes_the_longest(first: float, failures: int, longest: float) -> None:
    pause = backoff_seconds(first, failures, longest)
    assert 0 < pause <= longest
    assert pause <= backoff_seconds(first, failures + 1, longest)


@given(seconds=st.floats(0.001, 10**6), drawn=st.floats(0, 1))
def test_jitter_makes_a_pause_shorter_only(seconds: float, drawn: float) -> None:
    assert (1 - SPREAD) * seconds * 0.999 <= jittered(seconds, lambda: drawn) <= seconds


def test_the_jitter_of_a_pause_is_always_the_same_and_that_of_others_differs() -> None:
    assert jittered_by(10.0, 3.5) == jittered_by(10.0, 3.5)
    assert len({jittered_by(10.0, began / 1e6) for began in range(100)}) == 100
