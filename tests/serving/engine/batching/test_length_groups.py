from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.batching.cost import Cost
from serving.engine.batching.length_groups import MAX_STEPS, best_group, choose_lengths

pytestmark = pytest.mark.slow


costs = st.builds(
    Cost,
    fixed_seconds=st.floats(1e-4, 1e-1),
    token_seconds=st.just(4e-5),
    budget_tokens=st.just(512),
    square_seconds=st.sampled_from([0.0, 1e-7]),
)
counts = st.dictionaries(st.integers(1, 300), st.integers(1, 20), min_size=1, max_size=9)


def price(lengths: list[int], counts: dict[int, int], cuts: tuple[int, ...], cost: Cost) -> float:
    """Seconds of all groups that end before the cuts."""
    parts = [lengths[low:high] for low, high in zip((0, *cuts), (*cuts, len(lengths)), strict=True)]
    return sum(cost.seconds(sum(counts[length] for length in part), part[-1]) for part in parts)


@given(counts, costs, st.data())
def test_the_group_is_one_of_the_cheapest_cut_of_all(counts: dict[int, int], cost: Cost, data: st.DataObject) -> None:
    lengths = sorted(counts)
    chosen = data.draw(st.integers(0, len(lengths) - 1))
    group = best_group(lengths, [counts[length] for length in lengths], chosen, cost)
    assert group.start <= chosen < group.stop
    ways = [cuts for size in range(len(lengths)) for cuts in combinations(range(1, len(lengths)), size)]
    inner = {group.start, group.stop} - {0, len(lengths)}
    outside = [cuts for cuts in ways if inner <= set(cuts) and not set(range(group.start + 1, group.stop)) & set(cuts)]
    best = min(price(lengths, counts, cuts, cost) for cuts in ways)
    assert min(price(lengths, counts, cuts, cost) for cuts in outside) == pytest.approx(best, rel=1e-9)


@given(st.sets(st.integers(1, 2000), min_size=MAX_STEPS + 1, max_size=200), st.data())
def test_many_lengths_are_grouped_in_steps(lengths: set[int], data: st.DataObject) -> None:
    ascending = sorted(lengths)
    chosen = data.draw(st.integers(0, len(ascending) - 1))
    group = best_group(ascending, [1] * len(ascending), chosen, Cost(1e-3, 4e-5, 512))
    assert 0 <= group.start <= chosen < group.stop <= len(ascending)


def test_a_full_batch_is_cut_from_its_longest_row_down() -> None:
    cost = Cost(fixed_seconds=1.0, token_seconds=1e-6, budget_tokens=40)
    counts = {8: 3, 9: 2, 10: 3}
    assert choose_lengths([8, 9, 10], counts, 10, cost) == [(10, 3), (9, 1)]
    assert choose_lengths([8, 9, 10], counts, 9, cost) == [(10, 3), (9, 1)]
    assert choose_lengths([8, 9, 10], counts, 8, cost) == [(9, 1), (8, 3)]
