"""From what both sides of a step counted to a verdict for each guard: a pure function, which may be asked at any time.

A guard fails where the candidate is beyond its limit with certainty, passes where it is within with certainty, and is
inconclusive else. FAIL_ERROR bounds the probability that any guard of any step ever fails although the candidate keeps
to it, however often one looks: each guard of each step that may measure it gets an equal part (union bound; shadows are
of one step), and of a comparison each side gets half of that. Errors of shadows are judged in two ways, each of which
has half of that part. PASS_ERROR is the probability that one guard passes in one step although the candidate is beyond.
The bounds are those of `confidence`. Guards that are queries have no part in this: their values are taken as they are.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, log

from registry.rollout.guards import Guard
from registry.rollout.state import Bounds, Check, Verdict
from serving.manager.rollout.confidence import bounds, is_above, is_below, is_worse
from serving.manager.rollout.prometheus import Reading
from serving.wire.rollout_counts import RolloutCounts, SideCounts, bucket_ratio, bucket_seconds

FAIL_ERROR = 0.005
"""Half of what is promised: a candidate that is as good is rolled back in under 1 % of rollouts."""
PASS_ERROR = 0.1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
MOST = 0.5
"""Share of the forward passes that take too long if the candidate does: the median decides."""
HIGHEST = 1e9
"""Stands for no upper bound, as JSON has no infinity."""
UNKNOWN = Bounds((0.0, HIGHEST), (0.0, HIGHEST))


@dataclass(frozen=True)
class Judgement:
    """checks: of each guard that the step measures. stable: the bounds of the stable version's figures, per guard."""

    checks: tuple[Check, ...]
    stable: Mapping[str, Bounds]

    @property
    def failed(self) -> Check | None:
        """The first guard that failed."""
        return next((check for check in self.checks if check.verdict == "fail"), None)

    @property
    def waiting(self) -> tuple[Check, ...]:
        """The guards that are inconclusive."""
        return tuple(check for check in self.checks if check.verdict == "inconclusive")


def judge(
    guards: Sequence[Guard],
    steps: int,
    counts: RolloutCounts,
    *,
    is_shadow: bool,
    before: Mapping[str, Bounds] | None = None,
    readings: Mapping[str, Reading] | None = None,
) -> Judgement:
    """Judge a step by its counts. steps: of the whole rollout. is_shadow: whether it compares shadows.

    before: bounds of the stable version's figures, for a step in which it answers nobody. readings: of the guards that
    are queries.
    """
    fail_error = FAIL_ERROR / sum(1 if guard.needs_shadow else steps for guard in guards)
    side_error = fail_error / 2 if is_shadow else fail_error
    checks, stable = [], dict(before or {})
    for guard in guards:
        if not (guard.is_shadowed if is_shadow else not guard.needs_shadow):
            continue
        if guard.query:
            checks.append(_judge_query(guard, (readings or {}).get(str(guard), Reading(trouble="it was not asked"))))
        elif guard.metric == "compute":
            if counts.slowness or not counts.compared:  # else nothing tells it: texts are written, or another release
                checks.append(_judge_compute(guard, counts, fail_error))
        elif guard.needs_shadow:
            checks.append(_judge_agreement(guard, counts, fail_error))
        elif guard.metric == "label shift":
            checks.append(_judge_labels(guard, counts, fail_error))
        else:
            if counts.stable.requests:
                stable[str(guard)] = _bounds(guard, counts.stable, side_error)
            sides = _shadowed(counts) if is_shadow else counts
            check = _judge_sides(guard, sides, stable.get(str(guard), UNKNOWN), side_error)
            if is_shadow and _fails_pairs(sides, guard.limit, side_error):
                check = Check(check.guard, "fail", check.figures)
            checks.append(check)
    return Judgement(tuple(checks), stable)


def _judge_agreement(guard: Guard, counts: RolloutCounts, fail_error: float) -> Check:
    number = counts.compared + counts.failed
    verdict: Verdict = "inconclusive"
    if is_below(counts.agreement, number, guard.limit, fail_error):
        verdict = "fail"
    elif is_above(counts.agreement, number, guard.limit, PASS_ERROR):
        verdict = "pass"
    failed = f", {counts.failed:,} of which the candidate could not answer" if counts.failed else ""
    return Check(str(guard), verdict, f"{_percent(counts.agreement, number)} of {number:,} shadows{failed}")


def _judge_compute(guard: Guard, counts: RolloutCounts, fail_error: float) -> Check:
    """Whether most passes take longer than the limit. A bucket that the limit divides is on neither side."""
    number = sum(counts.slowness.values())
    longer = sum(shadows for bucket, shadows in counts.slowness.items() if bucket_ratio(bucket - 1) >= guard.limit)
    within = sum(shadows for bucket, shadows in counts.slowness.items() if bucket_ratio(bucket) <= guard.limit)
    verdict: Verdict = "inconclusive"
    if is_above(longer, number, MOST, fail_error):
        verdict = "fail"
    elif is_above(within, number, 1.0 - MOST, PASS_ERROR):
        verdict = "pass"
    return Check(str(guard), verdict, f"{_median_ratio(counts.slowness)} of {number:,} forward passes")


def _median_ratio(slowness: Mapping[int, int]) -> str:
    half = sum(slowness.values()) / 2
    within = 0
    for bucket in sorted(slowness):
        within += slowness[bucket]
        if within >= half:
            return f"{bucket_ratio(bucket):.2g} ×"
    return "none"


def _judge_query(guard: Guard, reading: Reading) -> Check:
    """Each value must be within the limit."""
    if reading.trouble:
        return Check(str(guard), "inconclusive", reading.trouble)
    worst = min(reading.values) if guard.is_least else max(reading.values)
    is_within = worst > guard.limit if guard.is_least else worst < guard.limit
    return Check(str(guard), "pass" if is_within else "fail", f"{worst:.6g}")


def _shadowed(counts: RolloutCounts) -> RolloutCounts:
    """The counts of a step whose candidate answers shadows alone, as if clients had asked it.

    The stable version has answered these requests. Its own errors are those of all of its requests, so that errors
    which come by chance count for both sides alike.
    """
    answered = SideCounts(requests=counts.compared + counts.failed, errors=counts.failed)
    return RolloutCounts(rollout=counts.rollout, step=counts.step, stable=counts.stable, candidate=answered)


def _fails_pairs(shadowed: RolloutCounts, limit: float, error: float) -> bool:
    """Whether the candidate fails surely more often, each shadow compared with a request of the stable version's.

    Shadows are of no more requests than the stable version has answered, so its errors are at least those of any pairs.
    """
    failed, number = shadowed.candidate.errors, shadowed.candidate.requests
    is_paired = number <= shadowed.stable.requests  # counts of several servers may be of different moments
    return is_paired and is_worse(failed, shadowed.stable.errors, number, limit, error)


def _judge_sides(guard: Guard, counts: RolloutCounts, stable: Bounds, fail_error: float) -> Check:
    """Compare the candidate's figure with the stable version's."""
    candidate = _bounds(guard, counts.candidate, fail_error)
    is_ratio = guard.metric in QUANTILES
    verdict: Verdict = "inconclusive"
    if _is_beyond(guard, candidate.fail, stable.fail):
        verdict = "fail"
    elif _is_within(guard, candidate.passing, stable.passing):
        verdict = "pass"
    sides = [counts.candidate] + ([counts.stable] if counts.stable.requests else [])
    figures = [f"{_figure(guard, side)} of {side.requests:,} requests" for side in sides]
    if len(figures) == 1:
        low, high = (1000 * value if is_ratio else 100 * value for value in stable.passing)
        figures.append(
            "unknown" if stable.passing[1] == HIGHEST else f"{low:.3g} to {high:.3g} {'ms' if is_ratio else '%'} before"
        )
    return Check(str(guard), verdict, ", stable ".join(figures))


def _is_beyond(guard: Guard, candidate: tuple[float, float], stable: tuple[float, float]) -> bool:
    """Whether the limit is exceeded wherever in their bounds both figures are."""
    if guard.metric in QUANTILES:
        return candidate[0] > stable[1] * guard.limit
    is_above = candidate[0] - stable[1] > guard.limit
    return is_above or (guard.metric == "confidence shift" and stable[0] - candidate[1] > guard.limit)


def _is_within(guard: Guard, candidate: tuple[float, float], stable: tuple[float, float]) -> bool:
    """Whether the limit is kept to wherever in their bounds both figures are."""
    if guard.metric in QUANTILES:
        return candidate[1] < stable[0] * guard.limit
    is_below = candidate[1] - stable[0] < guard.limit
    return is_below and (guard.metric != "confidence shift" or stable[1] - candidate[0] < guard.limit)


def _bounds(guard: Guard, side: SideCounts, fail_error: float) -> Bounds:
    """Of one side's figure; each side of a comparison has half of the error."""
    if guard.metric in QUANTILES:
        share = 1.0 - QUANTILES[guard.metric]
        return Bounds(_quantile(side, share, fail_error / 2), _quantile(side, share, PASS_ERROR / 2))
    total, number = _total(guard, side)
    return Bounds(bounds(total, number, fail_error / 2), bounds(total, number, PASS_ERROR / 2))


def _quantile(side: SideCounts, share: float, error: float) -> tuple[float, float]:
    """Bounds in seconds of the time that a `share` of the answers exceeds.

    The time is above a bucket where surely more than the share are slower than it, and within where surely fewer are.
    """
    buckets = sorted(side.times)
    number = sum(side.times.values())
    slower = [number - within for within in accumulate((side.times[bucket] for bucket in buckets), initial=0)]
    surely_more = bisect_left(slower, True, key=lambda count: not is_above(count, number, share, error))
    surely_fewer = bisect_left(slower, True, key=lambda count: is_below(count, number, share, error))
    # no answer lies between two occupied buckets, so what holds at the end of one holds up to the next
    first = buckets[surely_more - 1] if surely_more else 0
    low = bucket_seconds(first - 1) if first else 0.0
    high = bucket_seconds(buckets[surely_fewer - 1]) if 0 < surely_fewer <= len(buckets) else HIGHEST
    return low, high


def _judge_labels(guard: Guard, counts: RolloutCounts, fail_error: float) -> Check:
    """The population stability index Σ (a-b) ln(a/b) over labels: its bounds follow from those of each share."""
    stable, candidate = counts.stable.labels, counts.candidate.labels
    labels = sorted({*stable, *candidate})
    numbers = sum(stable.values()), sum(candidate.values())
    verdict: Verdict = "inconclusive"
    if all(numbers):
        least, _ = _shift(labels, stable, candidate, numbers, fail_error)
        _, most = _shift(labels, stable, candidate, numbers, PASS_ERROR)
        verdict = "fail" if least > guard.limit else "pass" if most < guard.limit else "inconclusive"
    return Check(str(guard), verdict, f"labels of {numbers[1]:,} answers, stable of {numbers[0]:,}")


def _shift(
    labels: Sequence[str],
    stable: Mapping[str, int],
    candidate: Mapping[str, int],
    numbers: tuple[int, int],
    error: float,
) -> tuple[float, float]:
    """Bounds of the index. The error is shared among all labels of both sides."""
    least = most = 0.0
    each = error / (2 * len(labels))
    for label in labels:
        low, high = bounds(stable.get(label, 0), numbers[0], each)
        own_low, own_high = bounds(candidate.get(label, 0), numbers[1], each)
        if own_low > high:
            least += _term(own_low, high)
        elif low > own_high:
            least += _term(low, own_high)
        most += max(_term(own_high, low), _term(high, own_low))
    return least, most


def _term(one: float, other: float) -> float:
    if one == other:
        return 0.0
    return inf if min(one, other) <= 0.0 else (one - other) * log(one / other)


def _total(guard: Guard, side: SideCounts) -> tuple[float, int]:
    """The sum of a guard's numbers in 0..1, and how many there are."""
    if guard.metric == "confidence shift":
        number = sum(side.labels.values())
        return min(side.confidence, number), number
    return side.errors if guard.metric == "errors" else side.refusals, side.requests


def _figure(guard: Guard, side: SideCounts) -> str:
    if guard.metric not in QUANTILES:
        return _percent(*_total(guard, side))
    rest = (1.0 - QUANTILES[guard.metric]) * sum(side.times.values())
    for bucket in sorted(side.times, reverse=True):
        rest -= side.times[bucket]
        if rest < 0:
            return f"{1000 * bucket_seconds(bucket):.3g} ms"
    return "no answers"


def _percent(total: float, count: int) -> str:
    return f"{100 * total / count:.3g} %" if count else "none"
