"""Counts in, verdicts out: tables, then whole rollouts by chance. `bench rollout` simulates 10,000 of them."""

import pytest

from bench.rollout import Side, simulate
from registry.rollout.guards import Guard
from registry.rollout.state import Bounds
from serving.manager.rollout.prometheus import Reading
from serving.manager.rollout.verdict import judge
from serving.wire.rollout_counts import RolloutCounts, SideCounts, ratio_bucket, time_bucket

ERRORS, P90, P99, COMPUTE, AGREEMENT, LABELS, CONFIDENCE = map(
    Guard.parse,
    (
        *("errors < stable + 1%", "p90 < 1.5 × stable", "p99 < 1.5 × stable", "compute < 2 × stable"),
        "agreement > 90%",
        *("label shift < 0.2", "confidence shift < 0.05"),
    ),
)


def side(requests: int, errors: int = 0, seconds: float = 0.01, labels: dict[str, int] | None = None) -> SideCounts:
    """Answers of which one in twenty takes twice as long."""
    slow = (requests - errors) // 20
    times = {time_bucket(seconds): requests - errors - slow, time_bucket(2 * seconds): slow}
    return SideCounts(requests=requests, errors=errors, times=times, labels=labels or {})


def sure(answers: int, score: float) -> SideCounts:
    return SideCounts(requests=answers, labels={"a": answers} if answers else {}, confidence=score * answers)


def verdict(guard: Guard, stable: SideCounts, candidate: SideCounts) -> str:
    counts = RolloutCounts(rollout="r", step=1, stable=stable, candidate=candidate)
    return judge([guard], 5, counts, is_shadow=False).checks[0].verdict


@pytest.mark.parametrize(
    ("guard", "stable", "candidate", "expected"),
    [
        (ERRORS, side(0), side(0), "inconclusive"),
        (ERRORS, side(10_000, 10), side(20, 1), "inconclusive"),
        (ERRORS, side(10_000, 10), side(2_000, 2), "pass"),
        (ERRORS, side(10_000, 10), side(300, 30), "fail"),
        (ERRORS, side(40_000, 2_000), side(40_000, 2_000), "pass"),
        (ERRORS, side(10_000, 2_000), side(10_000, 2_000), "inconclusive"),  # within a point needs more requests
        (ERRORS, side(10_000, 900), side(10_000, 100), "pass"),  # better than stable
        (P90, side(10_000), side(5, seconds=0.03), "fail"),
        (P90, side(10_000), side(3, seconds=0.03), "inconclusive"),
        (P90, side(10_000), side(400), "pass"),
        (P99, side(0), side(0), "inconclusive"),
        (P99, side(10_000), side(50), "inconclusive"),
        (P99, side(10_000), side(2_000), "pass"),
        (P99, side(10_000), side(2_000, seconds=0.03), "fail"),
        (P99, side(10_000), side(2_000, seconds=0.012), "pass"),
        (P99, side(10_000), side(2_000, seconds=0.005), "pass"),
        (CONFIDENCE, sure(0, 0.0), sure(0, 0.0), "inconclusive"),
        (CONFIDENCE, sure(5000, 0.8), sure(50, 0.8), "inconclusive"),
        (CONFIDENCE, sure(40_000, 0.8), sure(40_000, 0.8), "pass"),
        (CONFIDENCE, sure(5000, 0.8), sure(5000, 0.95), "fail"),
        (CONFIDENCE, sure(5000, 0.95), sure(5000, 0.8), "fail"),
        (LABELS, side(9, labels={}), side(9, labels={}), "inconclusive"),
        (LABELS, side(9, labels={"a": 5000, "b": 5000}), side(9, labels={"a": 5000, "b": 5000}), "pass"),
        (LABELS, side(9, labels={"a": 5000, "b": 5000}), side(9, labels={"a": 4500, "b": 500}), "fail"),
        (LABELS, side(9, labels={"a": 5000, "b": 5000}), side(9, labels={"a": 9, "b": 1}), "inconclusive"),
    ],
)
def test_sides_are_compared(guard: Guard, stable: SideCounts, candidate: SideCounts, expected: str) -> None:
    assert verdict(guard, stable, candidate) == expected


@pytest.mark.parametrize(
    ("compared", "agreement", "failed", "expected"),
    [
        (0, 0.0, 0, "inconclusive"),
        (20, 20.0, 0, "inconclusive"),
        (200, 200.0, 0, "pass"),
        (200, 180.0, 0, "inconclusive"),
        (200, 140.0, 0, "fail"),
        (100, 100.0, 60, "fail"),  # what the candidate cannot answer agrees in nothing
    ],
)
def test_agreement_is_judged_by_shadows(compared: int, agreement: float, failed: int, expected: str) -> None:
    counts = RolloutCounts(rollout="r", step=0, compared=compared, agreement=agreement, failed=failed)
    found = judge([P99, AGREEMENT], 5, counts, is_shadow=True)
    assert [check.guard for check in found.checks] == ["agreement > 90%"], "times are not measured by shadows"
    assert found.checks[0].verdict == expected


@pytest.mark.parametrize(
    ("compared", "failed", "stable", "expected"),
    [
        (0, 0, side(0), "inconclusive"),
        (200, 0, side(200), "inconclusive"),
        (700, 0, side(700), "pass"),
        (196, 4, side(200), "inconclusive"),
        (2_940, 60, side(3_000), "fail"),  # pairs show it; the bounds of both sides alone take thousands more
        (7_840, 160, side(8_000), "fail"),
        (180, 20, side(2_000), "fail"),
        (7_840, 160, side(8_000, 160), "inconclusive"),  # as many come by chance on both sides
    ],
)
def test_errors_are_judged_by_shadows_too(compared: int, failed: int, stable: SideCounts, expected: str) -> None:
    counts = RolloutCounts(
        rollout="r", step=0, stable=stable, compared=compared, agreement=float(compared), failed=failed
    )
    (check,) = judge([ERRORS], 5, counts, is_shadow=True).checks
    assert check.verdict == expected


@pytest.mark.parametrize(
    ("slowness", "expected", "figures"),
    [
        ({}, "inconclusive", "none of 0 forward passes"),
        ({1.0: 3, 3.0: 1}, "inconclusive", "1 × of 4 forward passes"),
        ({1.0: 40, 7.0: 8}, "pass", "1 × of 48 forward passes"),  # a cold cache, or a batch that was disturbed
        ({3.0: 8}, "inconclusive", "3.1 × of 8 forward passes"),
        ({3.0: 20}, "fail", "3.1 × of 20 forward passes"),
        ({1.5: 4, 3.0: 40}, "fail", "3.1 × of 44 forward passes"),
        ({2.0: 500}, "pass", "2 × of 500 forward passes"),
        ({1.9: 250, 2.1: 250}, "inconclusive", "2 × of 500 forward passes"),
        ({1e9: 20}, "fail", "64 × of 20 forward passes"),
    ],
)
def test_how_long_the_model_computes_is_judged_by_the_median(
    slowness: dict[float, int], expected: str, figures: str
) -> None:
    buckets = {ratio_bucket(ratio): passes for ratio, passes in slowness.items()}
    counts = RolloutCounts(rollout="r", step=0, compared=len(slowness), slowness=buckets)
    (check,) = judge([COMPUTE], 5, counts, is_shadow=True).checks
    assert (check.verdict, check.figures) == (expected, figures)


def test_a_limit_within_a_bucket_is_judged_by_the_others() -> None:
    counts = RolloutCounts(rollout="r", step=0, compared=1, slowness={ratio_bucket(2.05): 900})
    assert (
        judge([Guard.parse("compute < 2.05 × stable")], 5, counts, is_shadow=True).checks[0].verdict == "inconclusive"
    )


def test_where_no_engine_tells_how_long_it_computes_nothing_waits_for_it() -> None:
    """Tasks that write texts, and servers of an earlier release."""
    counts = RolloutCounts(rollout="r", step=0, compared=5)
    assert judge([COMPUTE], 5, counts, is_shadow=True).checks == ()
    assert judge([COMPUTE], 5, counts, is_shadow=False).checks == ()


@pytest.mark.parametrize(
    ("text", "reading", "expected", "figures"),
    [
        ("promql(a) < 2", Reading((1.0, 1.5)), "pass", "1.5"),
        ("promql(a) < 2", Reading((1.0, 2.0)), "fail", "2"),
        ("promql(a) > 2", Reading((3.0, 2.5)), "pass", "2.5"),
        ("promql(a) > 2", Reading((3.0, 1.0)), "fail", "1"),
        ("promql(a) < 2", Reading(trouble="the query has no value"), "inconclusive", "the query has no value"),
        ("promql(a) < 2", None, "inconclusive", "it was not asked"),
    ],
)
def test_a_query_is_judged_by_its_values_in_every_step(
    text: str, reading: Reading | None, expected: str, figures: str
) -> None:
    guard, counts = Guard.parse(text), RolloutCounts(rollout="r", step=0)
    for is_shadow in (True, False):
        readings = {str(guard): reading} if reading else {}
        (check,) = judge([guard], 5, counts, is_shadow=is_shadow, readings=readings).checks
        assert (check.verdict, check.figures) == (expected, figures)


def test_without_requests_of_the_stable_version_its_last_bounds_hold() -> None:
    seen = RolloutCounts(rollout="r", step=1, stable=side(10_000, 10), candidate=side(10_000, 10))
    before = judge([ERRORS, P99], 5, seen, is_shadow=False).stable
    for candidate, expected in ((side(2_000, 2), "pass"), (side(2_000, 200, seconds=0.03), "fail")):
        alone = RolloutCounts(rollout="r", step=2, candidate=candidate)
        found = judge([ERRORS, P99], 5, alone, is_shadow=False, before=before)
        assert [check.verdict for check in found.checks] == [expected, expected]
        assert found.stable == before
    assert judge([P99], 5, alone, is_shadow=False).checks[0].verdict == "inconclusive", "nothing to compare with"


def test_the_figures_are_told() -> None:
    counts = RolloutCounts(rollout="r", step=1, stable=side(10_000, 10), candidate=side(300, 30))
    assert judge([ERRORS], 5, counts, is_shadow=False).checks[0].figures == (
        "10 % of 300 requests, stable 0.1 % of 10,000 requests"
    )
    alone = RolloutCounts(rollout="r", step=1, candidate=side(300, 30))
    before = {str(ERRORS): Bounds((0.0, 0.02), (0.0, 0.01))}
    assert judge([ERRORS], 5, alone, is_shadow=False, before=before).checks[0].figures == (
        "10 % of 300 requests, stable 0 to 1 % before"
    )


@pytest.mark.slow
def test_a_candidate_as_good_is_almost_never_rolled_back() -> None:
    good = Side(errors=0.01, agreement=0.97)
    assert sum(simulate(good, good, seed).failed for seed in range(40)) <= 1


def test_one_that_computes_three_times_as_long_is_caught_within_100_shadows() -> None:
    found = [simulate(Side(), Side(compute=3.0), seed) for seed in range(20)]
    assert {(outcome.guard, outcome.step) for outcome in found} == {("compute < 2 × stable", "shadow:200")}
    assert max(outcome.candidate_requests for outcome in found) <= 100


def test_five_points_more_errors_are_caught_within_4000_requests_of_the_candidate() -> None:
    good, bad = Side(errors=0.01), Side(errors=0.06)
    found = [simulate(good, bad, seed) for seed in range(20)]
    assert all(outcome.failed for outcome in found)
    assert max(outcome.candidate_requests for outcome in found) <= 4000
