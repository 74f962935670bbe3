from typing import Any

import pytest

from serving import cost as module
from serving.cost import FRONT_SECONDS, choose_threads, fit


def test_a_line_is_found_again_and_the_budget_is_the_smallest_near_the_peak() -> None:
    sizes = [32 * 2**power for power in range(8)]
    seconds = [0.002 + size * 4e-5 for size in sizes]
    cost = fit(sizes, seconds, longest=128)
    assert cost.fixed_seconds == pytest.approx(0.002, rel=1e-3)
    assert cost.token_seconds == pytest.approx(4e-5, rel=1e-3)
    assert cost.slack_tokens == pytest.approx(50, rel=1e-2)
    # peak among batches of at most 0.1 s is 2048 tokens at 24,390 tokens/s; 1024 reaches 23,833, 512 only 22,776
    assert cost.budget_tokens == 1024


def test_the_longest_row_always_fits_and_latency_caps_the_budget() -> None:
    assert fit([32, 64], [0.001, 0.0011], longest=512).budget_tokens == 512
    assert fit([32, 64, 128], [0.01, 0.05, 0.2], longest=16).budget_tokens == 32


def test_noise_never_makes_a_cost_negative() -> None:
    cost = fit([32, 64, 128], [0.003, 0.002, 0.001], longest=16)
    assert cost.fixed_seconds > 0
    assert cost.token_seconds > 0


@pytest.mark.parametrize(
    ("row_seconds", "chosen"),
    [
        (FRONT_SECONDS / 4, 1),  # the fronts need the other core more
        (FRONT_SECONDS * 50, 2),  # nothing matters but the forward pass
    ],
)
def test_a_model_gets_the_threads_that_serve_fastest_beside_the_fronts(
    monkeypatch, row_seconds: float, chosen: int
) -> None:
    threads = [2]

    class Torch:
        get_num_threads = staticmethod(lambda: threads[0])
        set_num_threads = staticmethod(lambda count: threads.__setitem__(0, count))

    class AnyModel:
        class contract:
            max_tokens = 128

        class task:
            probe = staticmethod(lambda contract, length: None)

    def time(model: Any, row: Any, rows: int, clock: Any) -> float:
        return rows * row_seconds / threads[0] * (1.0 + 0.1 * (threads[0] - 1))

    monkeypatch.setattr(module, "torch", Torch)
    monkeypatch.setattr(module, "_time", time)
    assert choose_threads(AnyModel) == chosen  # type: ignore[arg-type]
    assert threads == [chosen]
