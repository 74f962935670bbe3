"""What a front counts of a rollout's requests."""

from serving.front.rollout.traffic import RolloutSide
from serving.wire.rollout_counts import SideCounts


def test_a_score_that_is_no_number_spoils_no_sum() -> None:
    counts = SideCounts()
    RolloutSide("candidate", counts).predicted([("a", 0.5), ("a", float("nan")), ("b", float("inf"))])
    assert (counts.labels, counts.confidence) == ({"a": 2, "b": 1}, 0.5)
