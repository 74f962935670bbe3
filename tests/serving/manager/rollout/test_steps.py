"""The leader's policy as a table: state and counts in, what is done next out."""

import pytest
from msgspec.structs import replace

from registry.rollout.plan import Plan, make_plan
from registry.rollout.state import Bounds, End, Progress, RolloutOrder, RolloutState
from serving.manager.rollout.steps import CandidateHealth, decide
from serving.wire.rollout_counts import RolloutCounts, SideCounts

PLAN = make_plan(alias="champion", stable="1", candidate="2", who="ada", why="better", now=0.0, every="60s", bake="60s")
PAUSE = RolloutOrder(id=PLAN.id, action="pause", who="eve", why="lunch", time=0.0)
KNOWN = {guard: Bounds((0.0, 0.02), (0.0, 0.02)) for guard in PLAN.guards}
ENOUGH = 100.0
"""Seconds: more than a step takes at least."""


def state(step: int, elapsed: float = 0.0, plan: Plan = PLAN, **changes: object) -> RolloutState:
    given = RolloutState(
        plan=plan,
        steps=plan.parsed_steps(),
        live="1",
        is_promoted=False,
        serves_own=False,
        is_recorded=True,
        progress=Progress(id=plan.id, step=step, elapsed_seconds=elapsed, stable=KNOWN if step == 4 else {}),
    )
    return replace(given, **changes)


def promoted(elapsed: float, **changes: object) -> RolloutState:
    return state(4, elapsed, live="2", is_promoted=True, serves_own=True, **changes)


def side(requests: int, errors: int = 0) -> SideCounts:
    return SideCounts(requests=requests, errors=errors, times={100: requests - errors})


def shadows(compared: int, share: float = 1.0) -> RolloutCounts:
    return RolloutCounts(rollout=PLAN.id, step=0, stable=side(9000), compared=compared, agreement=share * compared)


def sides(errors: int = 0, requests: int = 3000) -> RolloutCounts:
    return RolloutCounts(rollout=PLAN.id, step=1, stable=side(9000), candidate=side(requests, errors))


STOPPED = End(id=PLAN.id, outcome="failed", who="x", why="errors", time=0.0)
GONE = CandidateHealth(is_deleted=True)
LOADING = CandidateHealth("is loading")
FINE = CandidateHealth()


@pytest.mark.parametrize(
    ("before", "counts", "health", "action", "step", "waits_for"),
    [
        (state(0), shadows(0), FINE, "stay", 0, "60 s more of this step; 200 more shadows; more requests"),
        (state(0, ENOUGH), shadows(150), FINE, "stay", 0, "50 more shadows"),
        (state(0, ENOUGH), shadows(200), FINE, "stay", 0, "more requests to be certain of errors"),
        (state(0, ENOUGH), shadows(900), FINE, "stay", 1, ""),
        (state(0), shadows(200, 0.7), FINE, "stop", 0, ""),
        (state(1, ENOUGH), sides(requests=20), FINE, "stay", 1, "more requests to be certain of errors"),
        (state(1), sides(), FINE, "stay", 1, "60 s more of this step"),
        (state(1, ENOUGH), sides(), FINE, "stay", 2, ""),
        (state(1, ENOUGH), sides(errors=300), FINE, "stop", 1, ""),
        (state(1, ENOUGH), sides(), LOADING, "stay", 1, "version 2, which is loading"),
        (state(1, ENOUGH), sides(), GONE, "stop", 1, ""),
        (state(1, ENOUGH, order=PAUSE), sides(), FINE, "stay", 1, "eve to resume it"),
        (state(1, ENOUGH, order=PAUSE), sides(errors=300), FINE, "stop", 1, ""),  # guards watch a paused one, too
        (state(3, ENOUGH), sides(), FINE, "promote", 4, ""),
        (state(4), sides(), FINE, "promote", 4, ""),  # the leader before died before it moved the alias
        (promoted(0.0), RolloutCounts(rollout=PLAN.id, step=4), FINE, "stay", 4, "60 s more of watching"),
        (promoted(ENOUGH), RolloutCounts(rollout=PLAN.id, step=4), FINE, "end", 4, ""),  # inconclusive is enough
        (promoted(ENOUGH), sides(errors=300), FINE, "stop", 4, ""),
        # fronts that have not read of the promotion still ask the stable version
        (promoted(0.0), replace(sides(errors=300), stable=side(1)), FINE, "stop", 4, ""),
        (promoted(ENOUGH, stop=STOPPED), sides(), FINE, "revert", 4, ""),
        (state(2, stop=STOPPED), sides(errors=300), FINE, "stay", 2, ""),
        (state(2, live="3"), sides(errors=300), FINE, "stay", 2, ""),  # the alias was moved by hand
    ],
)
def test_the_policy(
    before: RolloutState, counts: RolloutCounts, health: CandidateHealth, action: str, step: int, waits_for: str
) -> None:
    found = decide(before, counts, 1.0, health)
    assert (found.action, found.progress.step) == (action, step)
    assert waits_for.replace("60 s", "59 s") in found.progress.waits_for


def test_time_counts_for_a_step_only_while_it_may_go_on() -> None:
    def elapsed(before: RolloutState, health: CandidateHealth = FINE) -> float:
        return decide(before, sides(), 7.0, health).progress.elapsed_seconds

    assert elapsed(state(1, 3.0)) == 10.0
    assert elapsed(state(1, 3.0), LOADING) == 3.0
    assert elapsed(state(1, 3.0, order=PAUSE)) == 3.0
    assert elapsed(state(1, ENOUGH)) == 0.0, "of the next step"


def test_a_stop_tells_guard_and_figures() -> None:
    found = decide(state(1), sides(errors=300), 1.0, FINE)
    assert found.guard == "errors < stable + 1%"
    assert found.why == "errors < stable + 1%: 10 % of 3,000 requests, stable 0 % of 9,000 requests"


def test_shadows_that_are_enough_end_while_the_step_waits() -> None:
    assert not decide(state(0), shadows(150), 1.0, FINE).progress.has_shadows
    assert decide(state(0), shadows(900), 1.0, FINE).progress.has_shadows
    assert not decide(state(0), shadows(900, 0.91), 1.0, FINE).progress.has_shadows, "the guard needs more of them"


def test_what_the_stable_version_did_is_known_after_the_promotion() -> None:
    found = decide(state(3, ENOUGH), sides(), 1.0, FINE).progress
    assert set(found.stable) == {"errors < stable + 1%", "p99 < 1.5 × stable"}
    after = replace(promoted(0.0), progress=found)
    bad = RolloutCounts(rollout=PLAN.id, step=4, candidate=side(3000, 300))
    assert decide(after, bad, 1.0, FINE).action == "stop"
