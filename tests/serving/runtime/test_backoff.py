import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.runtime.backoff import backoff_seconds


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (10_000, 30.0)])
def test_each_failure_doubles_the_pause_up_to_the_longest(failures: int, seconds: float) -> None:
    assert backoff_seconds(0.5, failures, 30.0) == seconds


@given(first=st.floats(0.001, 100), failures=st.integers(1, 10**9), longest=st.floats(0.001, 10**6))
def test_a_pause_never_shrinks_and_never_passes_the_longest(first: float, failures: int, longest: float) -> None:
    pause = backoff_seconds(first, failures, longest)
    assert 0 < pause <= longest
    assert pause <= backoff_seconds(first, failures + 1, longest)
