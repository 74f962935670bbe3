"""The bounds hold at all times at once; so a simulation looks after each number."""

import random
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.manager.rollout.confidence import bounds, is_above, is_below, is_worse, lower

pytestmark = pytest.mark.slow


counts = st.integers(1, 5000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count)))
errors = st.floats(1e-6, 0.2)


@settings(deadline=None)
@given(counts, errors)
def test_the_bounds_surround_the_mean(pair: tuple[int, int], error: float) -> None:
    total, count = pair
    low, high = bounds(total, count, error)
    assert 0.0 <= low <= total / count <= high <= 1.0
    assert low < high


@settings(deadline=None)
@given(counts, errors, st.floats(0.001, 0.999))
def test_the_short_way_agrees_with_the_bounds(pair: tuple[int, int], error: float, limit: float) -> None:
    total, count = pair
    low, high = bounds(total, count, error)
    assert is_above(total, count, limit, error) == (low > limit) or abs(low - limit) < 1e-6
    assert is_below(total, count, limit, error) == (high < limit) or abs(high - limit) < 1e-6


@settings(deadline=None)
@given(counts, errors)
def test_more_ones_raise_the_bound_and_less_error_lowers_it(pair: tuple[int, int], error: float) -> None:
    total, count = pair
    assert lower(total, count, error / 2) <= lower(total, count, error)
    if total < count:
        assert lower(total, count, error) <= lower(total + 1, count, error) + 1e-9


@pytest.mark.parametrize(("total", "count", "error", "low", "high"), [(0, 100, 0.05, 0.0, 0.047), (0, 0, 0.05, 0, 1)])
def test_known_bounds(total: int, count: int, error: float, low: float, high: float) -> None:
    """Of no failure in 100: (1-m)^100 = 0.05 · Γ(100.25)Γ(0.5)/(Γ(100.5)Γ(0.25)), so m = 1 - (0.05 · 0.155)^(1/100)."""
    assert bounds(total, count, error) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_the_true_share_is_outside_at_some_time_in_fewer_runs_than_the_error(share: float) -> None:
    error, runs, length = 0.1, 200, 400
    dice = random.Random(7)
    wrong = 0
    for _ in range(runs):
        ones = list(accumulate(dice.random() < share for _ in range(length)))
        wrong += any(
            is_above(total, count, share, error) or is_below(total, count, share, error)
            for count, total in enumerate(ones, start=1)
        )
    assert wrong <= error * runs, "at most a tenth, where looking once a time at 90 % would be wrong in most runs"
    assert wrong > 0, "the bounds are not so wide that they say nothing"


@pytest.mark.parametrize(("candidate", "stable"), [(0.02, 0.0), (0.03, 0.01), (0.3, 0.28)])
def test_pairs_that_differ_by_the_limit_are_called_worse_in_fewer_runs_than_the_error(
    candidate: float, stable: float
) -> None:
    error, runs, length = 0.1, 200, 1000
    dice = random.Random(7)
    wrong = 0
    for _ in range(runs):
        pairs = [(dice.random() < candidate, dice.random() < stable) for _ in range(length)]
        worse = accumulate(failed and not fails for failed, fails in pairs)
        better = accumulate(fails and not failed for failed, fails in pairs)
        seen = enumerate(zip(worse, better, strict=True), start=1)
        wrong += any(is_worse(*both, count, candidate - stable, error) for count, both in seen)
    assert wrong <= error * runs


def test_pairs_in_which_both_sides_fail_say_nothing() -> None:
    """As in an incident that ends: 4 of 5 requests fail on both sides, and none afterwards."""
    for count in range(1, 3000):
        failed = min(count, 1000) * 4 // 5
        assert not is_worse(failed, failed, count, 0.01, 1e-4)


def test_pairs_show_sooner_what_the_bounds_of_both_sides_show() -> None:
    for count in range(50, 3000, 50):
        if is_worse(count // 50, 0, count, 0.005, 1e-4):
            break
    assert count < 1500, "2 % fail, and 0.5 % may"
    assert lower(count // 50, count, 5e-5) - bounds(0, count, 5e-5)[1] < 0.0


@settings(deadline=None)
@given(counts, counts, st.floats(0.0, 0.9), errors)
def test_pairs_that_are_better_never_make_it_worse(
    pair: tuple[int, int], other: tuple[int, int], limit: float, error: float
) -> None:
    worse, count = pair
    assert is_worse(worse, 0, count, limit, error) or not is_worse(worse, other[0], count, limit, error)
