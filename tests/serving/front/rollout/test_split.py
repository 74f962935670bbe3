import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.front.rollout.split import is_candidates, place

pytestmark = pytest.mark.slow


KEYS = [f"customer-{number}".encode() for number in range(10_000)]
shares = st.floats(0.0, 1.0)


@settings(deadline=None)
@given(st.text(max_size=80), st.binary(), shares, shares)
def test_a_key_never_leaves_the_candidate_as_the_weight_grows(salt: str, key: bytes, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_candidates(salt, key, small) <= is_candidates(salt, key, large)


@settings(deadline=None)
@given(st.text(max_size=80), st.binary())
def test_nobody_is_the_candidates_at_0_and_everybody_at_1(salt: str, key: bytes) -> None:
    assert not is_candidates(salt, key, 0.0)
    assert is_candidates(salt, key, 1.0)


def test_the_share_of_10_000_keys_is_the_weight_within_1_percent() -> None:
    for weight in (0.01, 0.1, 0.5, 0.9):
        share = sum(is_candidates("9f2c", key, weight) for key in KEYS) / len(KEYS)
        assert abs(share - weight) < 0.01


def test_another_rollout_chooses_other_keys() -> None:
    first = {key for key in KEYS if is_candidates("salt of one", key, 0.1)}
    second = {key for key in KEYS if is_candidates("salt of another", key, 0.1)}
    assert len(first & second) < 0.3 * len(first), "a tenth by chance"
    assert place("a", b"b") != place("b", b"a")
