"""The policy of a rollout: a pure function from its state and what was counted to what its leader does next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from registry.rollout.guards import Guard
from registry.rollout.state import Check, Progress, RolloutState
from serving.manager.rollout.prometheus import Reading
from serving.manager.rollout.verdict import Judgement, judge
from serving.wire.rollout_counts import RolloutCounts, SideCounts

StepAction = Literal["stay", "promote", "stop", "end", "revert"]
"""revert: move the alias back, after a stop. end: the rollout is over, its candidate promoted."""


@dataclass(frozen=True)
class Decision:
    """progress: to be written before the action. why: for the history. guard: that failed, or ""."""

    action: StepAction
    progress: Progress
    why: str = ""
    guard: str = ""


@dataclass(frozen=True)
class CandidateHealth:
    """trouble: why the candidate takes no requests now, or "". is_deleted: whether the registry has it no more."""

    trouble: str = ""
    is_deleted: bool = False


def decide(
    state: RolloutState,
    counts: RolloutCounts,
    seconds: float,
    candidate: CandidateHealth,
    readings: Mapping[str, Reading] | None = None,
) -> Decision:
    """What the leader does now.

    seconds: since its last look, which count for the step's time unless the rollout is paused or in trouble.
    readings: of the guards that are queries.
    """
    progress, plan = state.progress, state.plan
    if state.stop is not None:
        return Decision("revert" if state.serves_own else "stay", progress, state.stop.why)
    if not state.is_active:
        return Decision("stay", progress)
    if candidate.is_deleted:
        return Decision("stop", progress, f"version {plan.candidate} was deleted from the registry")
    step = state.step
    if step.is_last:  # fronts that have not seen the promotion still ask the stable version: too few to know it by
        counts = replace(counts, stable=SideCounts())
    found = judge(
        plan.parsed_guards(),
        len(state.steps),
        counts,
        is_shadow=bool(step.shadows),
        before=progress.stable,
        readings=readings,
    )
    progress = replace(progress, checks=found.checks, stable=dict(found.stable))
    if found.failed is not None:
        return Decision("stop", progress, f"{found.failed.guard}: {found.failed.figures}", found.failed.guard)
    if state.phase != "paused":
        progress = replace(progress, waited_seconds=progress.waited_seconds + seconds)
        if not candidate.trouble:
            progress = replace(progress, elapsed_seconds=progress.elapsed_seconds + seconds)
    if state.phase == "baking":
        left = plan.bake_seconds - progress.elapsed_seconds
        if left > 0:
            return Decision("stay", replace(progress, waits_for=f"{left:.0f} s more of watching after the promotion"))
        return Decision("end", replace(progress, waits_for=""), "the guards held after the promotion")
    if step.is_last:  # the leader before wrote the step, and did not come to move the alias
        return _promote(state, progress)
    return _go_on(state, counts, progress, found, candidate)


def _go_on(
    state: RolloutState, counts: RolloutCounts, progress: Progress, found: Judgement, candidate: CandidateHealth
) -> Decision:
    """To the next step, or wait."""
    number = counts.compared + counts.failed
    missing = max(0, state.step.shadows - number)
    progress = replace(progress, has_shadows=bool(state.step.shadows) and not missing and not found.waiting)
    reasons = list[str]()
    if state.phase == "paused" and state.order is not None:
        reasons.append(f"{state.order.who} to resume it")
    if candidate.trouble:
        reasons.append(f"version {state.plan.candidate}, which {candidate.trouble}")
    if (left := state.plan.every_seconds - progress.elapsed_seconds) > 0:
        reasons.append(f"{left:.0f} s more of this step")
    if missing:
        reasons.append(f"{missing:,} more shadows")
    reasons += [_needs(check) for check in found.waiting]
    if reasons:
        return Decision("stay", replace(progress, waits_for="; ".join(reasons)))
    following = Progress(id=progress.id, step=progress.step + 1, stable=progress.stable)
    if state.steps[following.step].is_last:
        return _promote(state, following)
    return Decision("stay", following, _passed(state, found))


def _needs(check: Check) -> str:
    what = "a value" if Guard.parse(check.guard).query else "more requests to be certain"
    return f"{what} of {check.guard} (so far {check.figures})"


def _promote(state: RolloutState, progress: Progress) -> Decision:
    return Decision("promote", progress, f"passed {', '.join(state.plan.steps[:-1])}")


def _passed(state: RolloutState, found: Judgement) -> str:
    return f"passed {state.step}: {_figures(found)}"


def _figures(found: Judgement) -> str:
    checks: Sequence[str] = [f"{check.guard} ({check.figures})" for check in found.checks]
    return "; ".join(checks)
