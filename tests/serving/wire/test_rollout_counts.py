from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.wire.rollout_counts import (
    FOLDER,
    LAST_RATIO_BUCKET,
    RolloutCounts,
    SideCounts,
    bucket_ratio,
    bucket_seconds,
    ratio_bucket,
    read_counts,
    remove_counts,
    sum_counts,
    time_bucket,
    write_counts,
)

pytestmark = pytest.mark.slow


def counts(step: int = 0, requests: int = 1, rollout: str = "r") -> RolloutCounts:
    side = SideCounts(requests=requests, errors=1, times={3: requests}, labels={"a": requests})
    return RolloutCounts(rollout=rollout, step=step, stable=side, compared=2, agreement=1.5, slowness={16: requests})


@settings(deadline=None)
@given(st.floats(1e-4, 100.0))
def test_a_bucket_holds_times_that_differ_by_less_than_5_percent(seconds: float) -> None:
    bucket = time_bucket(seconds)
    assert bucket_seconds(bucket - 1) * 0.9999 <= seconds <= bucket_seconds(bucket) * 1.0001
    assert bucket_seconds(bucket) / bucket_seconds(bucket - 1) < 1.05


@settings(deadline=None)
@given(st.floats(0.26, 60.0))
def test_a_bucket_holds_ratios_that_differ_by_less_than_10_percent(ratio: float) -> None:
    bucket = ratio_bucket(ratio)
    assert bucket_ratio(bucket - 1) * 0.9999 <= ratio <= bucket_ratio(bucket) * 1.0001
    assert bucket_ratio(bucket) / bucket_ratio(bucket - 1) < 1.1


def test_no_ratio_is_without_a_bucket_and_whole_limits_divide_them() -> None:
    assert (ratio_bucket(0.0), ratio_bucket(1e9), ratio_bucket(float("inf"))) == (
        0,
        LAST_RATIO_BUCKET,
        LAST_RATIO_BUCKET,
    )
    for limit in (2.0, 4.0, 8.0):
        assert bucket_ratio(ratio_bucket(limit)) == limit


def test_no_time_is_without_a_bucket() -> None:
    assert time_bucket(0.0) == 0
    assert time_bucket(1e9) == time_bucket(1000.0)


def test_the_fronts_counts_of_one_step_are_summed(tmp_path: Path) -> None:
    for front, step, requests in (("a", 0, 1), ("b", 0, 10), ("a", 1, 100)):
        write_counts(tmp_path, front, counts(step, requests))
    write_counts(tmp_path, "a", counts(0, 5, rollout="other"))
    (tmp_path / FOLDER / "r-0-c.json").write_text("{")  # of another release
    total = sum_counts(read_counts(tmp_path, "r", 0), "r", 0)
    assert (total.stable.requests, total.stable.times, total.stable.labels) == (11, {3: 11}, {"a": 11})
    assert (total.stable.errors, total.compared, total.agreement, total.slowness) == (2, 4, 3.0, {16: 11})
    assert total.candidate == SideCounts()


def test_counts_of_another_step_or_rollout_are_not_summed() -> None:
    parts = [counts(0), counts(1), counts(0, rollout="other")]
    assert sum_counts(parts, "r", 0).stable.requests == 1


@pytest.mark.parametrize(("keep", "left"), [(1, {"r-1-a.json", "s-0-a.json"}), (None, {"s-0-a.json"})])
def test_files_of_earlier_steps_are_removed(tmp_path: Path, keep: int | None, left: set[str]) -> None:
    for step in (0, 1):
        write_counts(tmp_path, "a", counts(step))
    write_counts(tmp_path, "a", counts(0, rollout="s"))
    remove_counts(tmp_path, "r", keep)
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == left
