import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.batching.cost import Cost
from serving.engine.batching.online_cost import OnlineCost

MEASURED = Cost(2e-3, 4e-5, 512, square_seconds=4e-8, limit_seconds=0.1)
TRUE = Cost(4e-3, 3e-5, 512, square_seconds=8e-8)
SHAPES = [
    (rows, length) for length in (8, 16, 30, 60, 120, 250) for rows in (1, 2, 4, 8, 16, 32) if rows * length < 600
]


class Device:
    """Runs batches one after another, each as long as it is told."""

    def __init__(self, batch_key: str = "x") -> None:
        self.cost = OnlineCost(MEASURED, "x")
        self._batch_key = batch_key

    def run(self, rows: int, length: int, seconds: float) -> None:
        """One batch."""
        tokens = rows * length
        self.cost.observe(self._batch_key, tokens, tokens * length, seconds)


def off(cost: Cost, truth: Cost) -> float:
    """The largest relative error of an expected time."""
    return max(abs(cost.seconds(*shape) / truth.seconds(*shape) - 1) for shape in SHAPES)


def share(cost: Cost) -> float:
    """Tokens that take as long as what each forward pass takes beside them."""
    return cost.fixed_seconds / cost.token_seconds


def test_the_cost_follows_what_batches_take() -> None:
    device, draw = Device(), random.Random(1)
    assert off(device.cost.now, TRUE) > 0.4
    for _ in range(1000):
        shape = draw.choice(SHAPES)
        device.run(*shape, TRUE.seconds(*shape) * draw.uniform(0.97, 1.03))
    assert off(device.cost.now, TRUE) < 0.06
    assert share(device.cost.now) > 1.6 * share(MEASURED)


def test_a_stopped_process_changes_little() -> None:
    device, draw = Device(), random.Random(2)
    for number in range(1000):
        shape = draw.choice(SHAPES)
        device.run(*shape, MEASURED.seconds(*shape) * (100 if number % 50 == 0 else 1))
    assert off(device.cost.now, MEASURED) < 0.1


def test_batches_of_one_shape_keep_the_measured_proportions() -> None:
    device = Device()
    for _ in range(4000):
        device.run(4, 16, 5 * MEASURED.seconds(4, 16))
    assert share(device.cost.now) == pytest.approx(share(MEASURED), rel=0.01)
    assert device.cost.now.seconds(4, 16) == pytest.approx(5 * MEASURED.seconds(4, 16), rel=0.01)
    assert device.cost.now.budget_tokens == pytest.approx(MEASURED.budget_tokens, rel=0.01)


def test_rows_of_another_kind_teach_nothing() -> None:
    device = Device("y")
    for _ in range(100):
        device.run(4, 16, 1.0)
    assert device.cost.now == MEASURED


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.floats(0.0, 10.0)), min_size=16, max_size=200))
def test_no_times_make_a_cost_negative_or_a_budget_wild(batches: list[tuple[tuple[int, int], float]]) -> None:
    device = Device()
    for shape, seconds in batches:
        device.run(*shape, seconds)
    cost = device.cost.now
    parts = (cost.fixed_seconds, cost.token_seconds, cost.square_seconds)
    assert all(part > 0 for part in parts)
    assert MEASURED.budget_tokens // 2 <= cost.budget_tokens <= 2 * MEASURED.budget_tokens
    assert cost.limit_seconds == MEASURED.limit_seconds


def test_where_the_warm_up_saw_no_attention_none_is_learned() -> None:
    cost = OnlineCost(Cost(2e-3, 4e-5, 512), "x")
    for _ in range(64):
        cost.observe("x", 250, 250**2, 0.5)
    assert cost.now.square_seconds == 0.0
