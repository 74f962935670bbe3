"""Rollouts by chance: how often a candidate that is as good is rolled back, and how soon a worse one is caught.

Requests of both sides are drawn, counted as fronts count them, and judged at each look by the manager's own function.
The machine and its load do not matter: nothing is timed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from math import erf, exp, log, sqrt

import numpy

from registry.rollout.guards import parse_guards
from registry.rollout.plan import GUARDS, STEPS, Step, parse_steps
from serving.manager.rollout.verdict import judge
from serving.wire.rollout_counts import RolloutCounts, SideCounts, bucket_seconds, time_bucket

REQUESTS_A_LOOK = 400
"""At 200 requests a second and a look every 2 seconds, the default poll."""
LOOKS = 150
"""The most of one step: 5 minutes."""
MEDIAN_SECONDS, SPREAD = 0.02, 0.5
"""Of the lognormal time to an answer; p99 is 3.2 times the median."""
ROLLOUTS = 10_000


@dataclass(frozen=True)
class Side:
    """A version. errors: share of failed requests. agreement: share of answers that are the stable version's.

    slowness: factor of all times.
    """

    errors: float = 0.01
    agreement: float = 0.97
    slowness: float = 1.0


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


@dataclass
class _Rollout:
    stable: Side
    candidate: Side
    dice: numpy.random.Generator
    outcome: Outcome = field(default_factory=Outcome)

    def draw(self, counts: RolloutCounts, step: Step) -> None:
        """Count the requests until the next look."""
        self.outcome.requests += REQUESTS_A_LOOK
        if step.shadows:
            self.outcome.candidate_requests += step.shadows
            counts.compared += step.shadows
            counts.agreement += int(self.dice.binomial(step.shadows, self.candidate.agreement))
            return
        own = int(self.dice.binomial(REQUESTS_A_LOOK, step.weight))
        self.outcome.candidate_requests += own
        self._count(counts.candidate, self.candidate, own)
        self._count(counts.stable, self.stable, REQUESTS_A_LOOK - own)

    def _count(self, counts: SideCounts, side: Side, requests: int) -> None:
        errors = int(self.dice.binomial(requests, side.errors))
        buckets, shares = _time_shares(side.slowness)
        for bucket, number in zip(buckets, self.dice.multinomial(requests - errors, shares).tolist(), strict=True):
            if number:
                counts.times[bucket] = counts.times.get(bucket, 0) + number
        counts.requests += requests
        counts.errors += errors


@cache
def _time_shares(slowness: float) -> tuple[list[int], list[float]]:
    """The buckets in which a lognormal time may lie, and the share of times in each."""
    median = slowness * MEDIAN_SECONDS
    buckets = list(range(time_bucket(median * exp(-6 * SPREAD)), time_bucket(median * exp(6 * SPREAD)) + 1))
    ends = [_normal(log(bucket_seconds(bucket) / median) / SPREAD) for bucket in buckets[:-1]]
    return buckets, [after - before for before, after in pairwise([0.0, *ends, 1.0])]


def _normal(value: float) -> float:
    """The share of a normal distribution below `value`."""
    return 0.5 * (1.0 + erf(value / sqrt(2.0)))


def simulate(stable: Side, candidate: Side, seed: int, *, looks: int = 40) -> Outcome:
    """One rollout by the default plan: each step passes after `looks` looks, unless a guard failed at one of them."""
    run = _Rollout(stable, candidate, numpy.random.default_rng(seed))
    steps, guards = parse_steps(STEPS), parse_guards(GUARDS)
    for index, step in enumerate(steps[:-1]):
        counts = RolloutCounts(
            rollout="simulated", step=index, stable=SideCounts(times={}), candidate=SideCounts(times={})
        )
        for _ in range(looks):
            run.draw(counts, step)
            if not _may_fail(counts):
                if step.shadows:
                    break
                continue
            failed = judge(guards, len(steps), counts, is_shadow=bool(step.shadows)).failed
            if failed is not None:
                run.outcome.failed, run.outcome.guard, run.outcome.step = True, failed.guard, str(step)
                return run.outcome
    return run.outcome


def _may_fail(counts: RolloutCounts) -> bool:
    """Whether some figure of the candidate is worse than the stable version's, without which no guard can fail."""
    if counts.compared:
        return counts.agreement < 0.95 * counts.compared
    stable, candidate = counts.stable, counts.candidate
    if not stable.requests or not candidate.requests:
        return False
    more_errors = candidate.errors / candidate.requests > stable.errors / stable.requests + 0.01
    return more_errors or _p99(candidate) > 1.2 * _p99(stable)


def _p99(side: SideCounts) -> float:
    left = 0.01 * sum(side.times.values())
    for bucket in sorted(side.times, reverse=True):
        left -= side.times[bucket]
        if left < 0:
            return bucket_seconds(bucket)
    return 0.0


def run(seconds: float) -> str:  # noqa: ARG001  # of one form with the other benchmarks
    """The report. seconds: unused, as nothing is timed."""
    good = Side()
    lines = [_describe("as good", [simulate(good, good, seed, looks=LOOKS) for seed in range(ROLLOUTS)])]
    worse = {
        "5 points more errors": Side(errors=0.06),
        "2 points more errors": Side(errors=0.03),
        "3 times as slow": Side(slowness=3.0),
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
