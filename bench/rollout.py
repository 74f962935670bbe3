"""Rollouts by chance: how often a candidate that is as good is rolled back, and how soon a worse one is caught.

Requests of both sides are drawn, counted as fronts count them, and judged at each look by the manager's own function.
The machine and its load do not matter: nothing is timed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import erf, exp, log, log2, sqrt
from typing import Any

import numpy

from registry.rollout.guards import parse_guards
from registry.rollout.plan import GUARDS, STEPS, Step, parse_steps
from serving.manager.rollout.verdict import judge
from serving.wire.rollout_counts import (
    BUCKETS_PER_DOUBLING,
    LAST_RATIO_BUCKET,
    RolloutCounts,
    SideCounts,
    bucket_ratio,
    bucket_seconds,
    ratio_bucket,
    time_bucket,
)

REQUESTS_A_LOOK = 400
"""At 200 requests a second and a look every 2 seconds, the default poll."""
LOOKS = 100
"""Of one step: three minutes."""
MEDIAN_SECONDS, SPREAD = 0.02, 0.5
"""Of the lognormal time to an answer; p99 is 3.2 times the median."""
SHADOWS_A_LOOK = 20
"""Of a slow candidate on a busy server."""
COMPUTE_SPREAD, OUTLIERS, OUTLIER = 0.3, 0.02, 7.0
"""Spread of the lognormal ratio of two passes' times; the share of outliers among passes, and their factor. Twice
and more what two busy cores showed."""
ROLLOUTS = 10_000


Counts = numpy.ndarray[Any, numpy.dtype[numpy.int64]]


@dataclass(frozen=True)
class Side:
    """A version. errors: share of failed requests. agreement: share of answers that are the stable version's.

    slowness: factor of all times. compute: factor of the time of a forward pass.
    """

    errors: float = 0.01
    agreement: float = 0.97
    slowness: float = 1.0
    compute: float = 1.0


@dataclass
class Outcome:
    """failed: whether the candidate was rolled back, by `guard`, in `step`. requests: of all clients until then.

    candidate_requests: those of them that the candidate answered, and shadows.
    """

    failed: bool = False
    guard: str = ""
    step: str = ""
    requests: int = 0
    candidate_requests: int = 0


@dataclass(frozen=True)
class _Drawn:
    """One side's counts at each look of a step. times: (looks, buckets) int64."""

    requests: Counts
    errors: Counts
    buckets: list[int]
    times: Counts

    @classmethod
    def of(cls, side: Side, requests: Counts, dice: numpy.random.Generator) -> "_Drawn":
        """Draw the outcome of `requests`: how many are sent between each two looks."""
        errors = dice.binomial(requests, side.errors)
        buckets, shares = _time_shares(side.slowness)
        times = dice.multinomial(requests - errors, shares)
        return cls(requests.cumsum(), errors.cumsum(), buckets, times.cumsum(axis=0))

    def p99(self) -> Counts:
        """At each look the bucket that holds the quantile, as its place in `buckets`."""
        within = self.times.cumsum(axis=1)
        found: Counts = (within < 0.99 * within[:, -1:]).sum(axis=1)
        return found

    def at(self, look: int) -> SideCounts:
        """The counts at a look, as fronts have them."""
        row = self.times[look].tolist()
        times = {bucket: number for bucket, number in zip(self.buckets, row, strict=True) if number}
        return SideCounts(requests=int(self.requests[look]), errors=int(self.errors[look]), times=times)


def simulate(stable: Side, candidate: Side, seed: int, *, looks: int = 40) -> Outcome:
    """One rollout by the default plan: each step passes after `looks` looks, unless a guard failed at one of them."""
    dice, outcome = numpy.random.default_rng(seed), Outcome()
    steps, guards = parse_steps(STEPS), parse_guards(GUARDS)
    for index, step in enumerate(steps[:-1]):
        for seen, counts in _looks(step, index, stable, candidate, dice, looks):
            failed = judge(guards, len(steps), counts, is_shadow=bool(step.shadows)).failed
            if failed is not None:
                own = counts.compared + counts.candidate.requests
                return Outcome(True, failed.guard, str(step), outcome.requests + seen, outcome.candidate_requests + own)
        outcome.requests += step.shadows or looks * REQUESTS_A_LOOK
        outcome.candidate_requests += step.shadows or int(looks * REQUESTS_A_LOOK * step.weight)
    return outcome


def _looks(
    step: Step, index: int, stable: Side, candidate: Side, dice: numpy.random.Generator, looks: int
) -> Iterator[tuple[int, RolloutCounts]]:
    """The requests and counts of each look of a step at which a guard may fail.

    No guard can fail unless the candidate's own figure is worse than the stable version's by the limit.
    """
    if step.shadows:
        yield from _shadow_looks(index, stable, candidate, dice, step.shadows * looks // SHADOWS_A_LOOK)
        return
    own = dice.binomial(REQUESTS_A_LOOK, step.weight, looks)
    sides = [_Drawn.of(side, each, dice) for side, each in ((stable, REQUESTS_A_LOOK - own), (candidate, own))]
    rates = [side.errors / numpy.maximum(side.requests, 1) for side in sides]
    places = [numpy.asarray(side.buckets)[side.p99()] for side in sides]
    slower = places[1] > places[0] + BUCKETS_PER_DOUBLING * log2(1.5) - 1
    for look in numpy.flatnonzero((rates[1] > rates[0] + 0.01) | slower).tolist():
        counts = RolloutCounts(rollout="", step=index, stable=sides[0].at(look), candidate=sides[1].at(look))
        yield REQUESTS_A_LOOK * (look + 1), counts


def _shadow_looks(
    index: int, stable: Side, candidate: Side, dice: numpy.random.Generator, looks: int
) -> Iterator[tuple[int, RolloutCounts]]:
    """Likewise of a step of shadows, with a look each time that some more were compared."""
    requests = SHADOWS_A_LOOK * numpy.arange(1, looks + 1)
    errors, failed = (dice.binomial(SHADOWS_A_LOOK, side.errors, looks).cumsum() for side in (stable, candidate))
    compared = requests - failed
    agreed = dice.binomial(numpy.diff(compared, prepend=0), candidate.agreement).cumsum()
    buckets, shares = _ratio_shares(candidate.compute / stable.compute)
    ratios = dice.multinomial(numpy.diff(compared, prepend=0), shares).cumsum(axis=0)
    slower = ratios[:, numpy.asarray(buckets) > ratio_bucket(2.0)].sum(axis=1) > compared / 2
    for look in numpy.flatnonzero((failed > errors + 0.01 * requests) | (agreed < 0.9 * requests) | slower).tolist():
        counts = RolloutCounts(
            rollout="",
            step=index,
            stable=SideCounts(requests=int(requests[look]), errors=int(errors[look])),
            compared=int(compared[look]),
            agreement=float(agreed[look]),
            failed=int(failed[look]),
            slowness={bucket: n for bucket, n in zip(buckets, ratios[look].tolist(), strict=True) if n},
        )
        yield int(requests[look]), counts


@cache
def _time_shares(slowness: float) -> tuple[list[int], list[float]]:
    """The buckets in which a lognormal time may lie, and the share of times in each."""
    median = slowness * MEDIAN_SECONDS
    buckets = list(range(time_bucket(median * exp(-6 * SPREAD)), time_bucket(median * exp(6 * SPREAD)) + 1))
    ends = [_normal(log(bucket_seconds(bucket) / median) / SPREAD) for bucket in buckets[:-1]]
    return buckets, [after - before for before, after in pairwise([0.0, *ends, 1.0])]


@cache
def _ratio_shares(compute: float) -> tuple[list[int], list[float]]:
    """Likewise of the ratio of two times of forward passes, some of which are disturbed."""
    buckets = list(range(LAST_RATIO_BUCKET + 1))
    ends = [_ratio_share(bucket_ratio(bucket) / compute) for bucket in buckets[:-1]]
    return buckets, [after - before for before, after in pairwise([0.0, *ends, 1.0])]


def _ratio_share(ratio: float) -> float:
    """The share of passes of an equal version whose ratio is at most this one."""
    within, outlying = (_normal(log(ratio / middle) / COMPUTE_SPREAD) for middle in (1.0, OUTLIER))
    return (1.0 - OUTLIERS) * within + OUTLIERS * outlying


def _normal(value: float) -> float:
    """The share of a normal distribution below `value`."""
    return 0.5 * (1.0 + erf(value / sqrt(2.0)))


def run(seconds: float) -> str:  # noqa: ARG001  # of one form with the other benchmarks
    """The report. seconds: unused, as nothing is timed."""
    good = Side()
    lines = [_describe("as good", [simulate(good, good, seed, looks=LOOKS) for seed in range(ROLLOUTS)])]
    worse = {
        "5 points more errors": Side(errors=0.06),
        "2 points more errors": Side(errors=0.03),
        "3 times as slow": Side(slowness=3.0, compute=3.0),
        "3 times as slow, and computes as fast": Side(slowness=3.0),
        "30 % other answers": Side(agreement=0.7),
    }
    for name, candidate in worse.items():
        lines.append(_describe(name, [simulate(good, candidate, seed, looks=LOOKS) for seed in range(ROLLOUTS // 10)]))
    head = "| candidate | rollouts | rolled back | requests of the candidate until then: median | 99 of 100 | most |"
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


def _describe(name: str, outcomes: Iterable[Outcome]) -> str:
    found = list(outcomes)
    failed = sorted(outcome.candidate_requests for outcome in found if outcome.failed)
    share = f"{100 * len(failed) / len(found):.2f} %"
    figures = [f"{failed[int(part * (len(failed) - 1))]:,}" if failed else "–" for part in (0.5, 0.99, 1.0)]
    return f"| {name} | {len(found):,} | {share} | {' | '.join(figures)} |"
