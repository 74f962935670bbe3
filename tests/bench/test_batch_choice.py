import pytest

from bench.batch_choice import RULES, simulate
from bench.batching_rules import best_possible
from bench.texts import MIXED, SHORT, LengthMix, make_lengths
from serving.engine.batching.cost import Cost

COST = Cost(4.5e-3, 4.8e-5, 1024)
WIDEST = Cost(4.5e-3, 4.8e-5, 2048)
"""As wide as the engine's budget may grow while it learns."""


@pytest.mark.parametrize("mix", [SHORT, MIXED], ids=lambda mix: mix.name)
@pytest.mark.parametrize("pace", [1, 32, 500.0])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_serves_all_rows_and_none_beats_the_best_possible(mix: LengthMix, pace: float, rule: str) -> None:
    lengths = make_lengths(mix, 400)
    found = simulate(RULES[rule](COST), lengths, COST, pace)
    assert len(found.waits) == len(lengths)
    assert found.waits[0] >= 0.0
    assert found.forward_seconds >= best_possible(lengths, WIDEST)


@pytest.mark.parametrize("mix", [SHORT, MIXED], ids=lambda mix: mix.name)
@pytest.mark.parametrize("connections", [32, 128])
def test_the_engines_choice_takes_less_time_than_the_nearest_rows(mix: LengthMix, connections: int) -> None:
    lengths = make_lengths(mix, 1000)
    ours, nearest = (
        simulate(RULES[name](COST), lengths, COST, connections) for name in ("Headwaiter", "nearest to the oldest")
    )
    assert ours.forward_seconds < 0.97 * nearest.forward_seconds


def test_one_row_at_a_time_is_served_alone_and_at_once() -> None:
    found = simulate(RULES["Headwaiter"](COST), [10, 20, 30], COST, 1)
    assert found.forward_seconds == pytest.approx(sum(COST.seconds(1, length) for length in (10, 20, 30)))
    assert found.waits == pytest.approx([0.0, 0.0, 0.0])
