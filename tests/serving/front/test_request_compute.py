"""How much longer one version computes than another: never more than it really does, whatever shared its batches."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.front.request_compute import RequestCompute, slowness
from serving.wire.messages import NOT_TOLD, Compute

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=6)
PART = st.floats(0.0, 1.0)


def batch(lengths: list[int], cost: tuple[float, float, float], factor: float = 1.0) -> Compute:
    """A pass over padded rows that takes `factor` times this cost: fixed, of a token, of a pair of tokens."""
    tokens = len(lengths) * max(lengths)
    pairs = tokens * max(lengths)
    return Compute(factor * (cost[0] + cost[1] * tokens + cost[2] * pairs), tokens, pairs)


def computed(own: int, *batches: Compute) -> RequestCompute:
    """Of a request with one row of `own` tokens in each batch."""
    found = RequestCompute()
    for each in batches:
        found.add(each, own)
    return found


@given(st.integers(1, 512), LENGTHS, LENGTHS, PART, PART, PART)
def test_an_equal_version_is_never_said_to_be_slower_whatever_shares_its_batches(
    own: int, others: list[int], more: list[int], fixed: float, token: float, pair: float
) -> None:
    cost = (fixed + 1e-6, token, pair)
    found = slowness(computed(own, batch([own, *others], cost)), computed(own, batch([own, *more], cost)))
    assert found is not None
    assert found <= 1.0 + 1e-9


def test_of_equal_batches_it_is_the_ratio_of_their_times() -> None:
    cost = (1.0, 0.1, 0.001)
    assert slowness(computed(8, batch([8, 9], cost, 3.0)), computed(8, batch([8, 9], cost))) == pytest.approx(3.0)


def test_a_tokenizer_that_makes_twice_the_tokens_of_a_text_makes_it_take_longer() -> None:
    cost = (0.0, 1.0, 0.0)
    assert slowness(computed(16, batch([16], cost)), computed(8, batch([8], cost))) == pytest.approx(2.0)


def test_a_pass_counts_once_for_all_rows_of_a_request() -> None:
    first, second = batch([8, 8], (1.0, 0.0, 0.0)), batch([8], (1.0, 0.0, 0.0))
    found = computed(8, first, first, second)
    assert (found.passes, found.seconds, found.tokens, found.own_tokens) == (2, 2.0, 24, 24)


@pytest.mark.parametrize("other", [NOT_TOLD, Compute(math.inf, 8, 64), Compute(math.nan, 8, 64), Compute(1.0, -8, 64)])
def test_nothing_follows_from_what_is_not_told(other: Compute) -> None:
    known = computed(8, batch([8], (1.0, 0.0, 0.0)))
    assert slowness(computed(8, other), known) is slowness(known, computed(8, other)) is None
    assert slowness(RequestCompute(), known) is None
