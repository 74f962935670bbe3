from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine import warmup as module
from serving.engine.batching.cost import Cost
from serving.engine.parallel import CpuPlan
from serving.engine.warmup import FRONT_SECONDS, MIN_SHARE, choose_cpu_plan, fit
from serving.wire.messages import EncodedRow, Row


def test_a_line_is_found_again_and_the_budget_is_the_smallest_near_the_peak() -> None:
    sizes = [32 * 2**power for power in range(8)]
    cost = fit(32, sizes, [0.002 + size * 4e-5 for size in sizes], 128, 0.002 + 128 * 4e-5)
    assert cost.fixed_seconds == pytest.approx(0.002, rel=1e-3)
    assert cost.token_seconds == pytest.approx(4e-5, rel=1e-3)
    assert cost.square_seconds == pytest.approx(0.0, abs=1e-12)
    # peak among batches of at most 0.1 s is 2048 tokens at 24,390 tokens/s; 1024 reaches 23,833, 512 only 22,776
    assert cost.budget_tokens == 1024


def test_what_a_long_row_costs_beyond_the_line_is_attentions() -> None:
    sizes = [32, 64, 128, 256, 512]
    true = Cost(0.002, 4e-5, 512, square_seconds=1e-7)
    cost = fit(32, sizes, [true.seconds(size // 32, 32) for size in sizes], 512, true.seconds(1, 512))
    assert cost.square_seconds == pytest.approx(1e-7, rel=1e-3)
    assert cost.seconds(3, 200) == pytest.approx(true.seconds(3, 200), rel=1e-3)


def test_a_long_row_that_is_cheaper_than_the_line_leaves_a_line() -> None:
    sizes = [32, 64, 128, 256, 512]
    cost = fit(32, sizes, [0.002 + size * 4e-5 for size in sizes], 512, 0.015)
    assert cost.square_seconds == 0.0
    assert cost.token_seconds == pytest.approx(4e-5, rel=1e-3)


def test_rows_of_one_length_leave_a_line() -> None:
    assert fit(197, [197, 394], [0.01, 0.018], 197, 0.01).square_seconds == 0.0


def test_the_longest_row_always_fits_and_latency_caps_the_budget() -> None:
    assert fit(32, [32, 64], [0.001, 0.0011], 512, 0.005).budget_tokens == 512
    assert fit(16, [32, 64, 128], [0.01, 0.05, 0.2], 16, 0.01).budget_tokens == 32


def test_a_batch_takes_no_longer_than_the_limit_or_the_longest_row() -> None:
    cost = Cost(0.01, 1e-4, 4096, limit_seconds=0.1)
    assert cost.max_rows(32) == 28
    assert cost.seconds(28, 32) <= 0.1 < cost.seconds(29, 32)
    assert cost.max_rows(2048) == 1
    assert fit(16, [16, 32], [0.1, 0.11], 512, 0.4).limit_seconds == 0.4


def test_a_slow_model_is_measured_by_one_typical_and_one_longest_row() -> None:
    cost = fit(32, [32], [0.2], 512, 1.64)
    assert cost.fixed_seconds == pytest.approx(0.104)
    assert cost.token_seconds == pytest.approx(0.003)
    assert cost.square_seconds == 0.0


@given(
    st.lists(st.floats(1e-4, 0.2), min_size=1, max_size=8),
    st.sampled_from([16, 32, 512]),
    st.floats(1e-4, 1.0),
)
def test_no_noise_makes_a_part_vanish(seconds: list[float], longest: int, longest_seconds: float) -> None:
    typical = min(32, longest)
    sizes = [typical * 2**power for power in range(len(seconds))]
    cost = fit(typical, sizes, seconds, longest, longest_seconds)
    assert cost.fixed_seconds >= MIN_SHARE * seconds[0]
    assert cost.token_seconds >= MIN_SHARE * seconds[-1] / sizes[-1]
    assert cost.square_seconds >= 0.0
    assert cost.budget_tokens >= longest


class Cores:
    """torch on two cores, whose threads a forward pass of `row_seconds` a row uses, the second one less well."""

    def __init__(self, row_seconds: float, wake_seconds: float, gain: float) -> None:
        self.row_seconds, self.wake_seconds, self.gain, self.threads = row_seconds, wake_seconds, gain, 2

    def get_num_threads(self) -> int:
        """As torch's."""
        return self.threads

    def set_num_threads(self, count: int) -> None:
        """As torch's."""
        self.threads = count

    def rows(self, count: int) -> float:
        """Seconds that a forward pass over `count` rows takes."""
        return count * self.row_seconds / (self.gain if self.threads == 2 else 1.0)


class AnyModel:
    class contract:
        max_tokens = 128
        new_tokens = 0

    @classmethod
    def probe(cls, length: int) -> Row:
        return EncodedRow(length, b"", new_tokens=cls.contract.new_tokens).to_row(0, 0.0)


@pytest.mark.parametrize(
    ("row_seconds", "new_tokens", "wake_seconds", "parallel", "chosen"),
    [
        (FRONT_SECONDS / 4, 0, 0.0, True, CpuPlan(1, 1)),  # the fronts need the other core more
        (FRONT_SECONDS * 50, 0, 0.0, False, CpuPlan(1, 2)),  # nothing matters but the forward pass
        (FRONT_SECONDS * 50, 100, 0.0, False, CpuPlan(1, 1)),  # but where each token is sent by itself
        (FRONT_SECONDS * 50, 0, 0.0, True, CpuPlan(2, 1, 2, 24)),  # side by side no thread waits for another
        (FRONT_SECONDS * 50, 0, 0.005, True, CpuPlan(2, 1, 2, 96)),  # a thread that sleeps is late
    ],
)
def test_cores_are_split_so_that_rows_are_served_fastest_beside_the_fronts(
    monkeypatch, row_seconds: float, new_tokens: int, wake_seconds: float, parallel: bool, chosen: CpuPlan
) -> None:
    monkeypatch.setattr(AnyModel.contract, "new_tokens", new_tokens)
    cores = Cores(row_seconds, wake_seconds, gain=1.8)

    def alone(model: Any, row: Any, clock: Any) -> float:
        return cores.rows(1) * row.length / 32 + (wake_seconds if cores.threads == 2 else 0.0)

    def together(model: Any, row: Any, plan: CpuPlan, clock: Any) -> float:
        cores.set_num_threads(plan.threads)
        return cores.rows(16)

    monkeypatch.setattr(module, "torch", cores)
    monkeypatch.setattr(module, "_time_single_row", alone)
    monkeypatch.setattr(module, "_time_plan", together)
    assert choose_cpu_plan(AnyModel, parallel=parallel) == chosen  # type: ignore[arg-type]
    assert cores.threads == chosen.threads
