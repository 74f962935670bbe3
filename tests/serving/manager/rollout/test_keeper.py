"""Replicas that lead a rollout through a registry in memory: whoever leads, the same happens, and nothing is lost."""

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from registry.errors import RegistryUnavailable
from registry.history import MAX_RECORD, Move
from registry.references import Reference
from registry.rollout.control import MAX_COUNTS, Rollouts, RolloutViews
from registry.rollout.state import COUNTS, MAX_BEAT, PROGRESS, Check, Progress, RolloutState, encode
from registry.settings import RegistrySettings
from serving.manager.registry_watch import GIVE_UP_SECONDS, MAX_GIVEN_UP
from serving.manager.rollout.cycle import HAND_SECONDS, LEASE_SECONDS, Cycle
from serving.manager.rollout.keeper import IDLE_POLLS, RolloutKeeper
from serving.settings import ServingSettings
from serving.wire.rollout_counts import LAST_BUCKET, LAST_RATIO_BUCKET, RolloutCounts, SideCounts, write_counts
from serving.wire.version_state import State
from tests.e2e.server import wait_until
from tests.rollout_registry import MemoryVersions
from tests.serving.manager.world import Server
from tests.waiting import WAIT_SECONDS

READY: dict[tuple[str, str], State] = {("m", "1"): "ready", ("m", "2"): "ready"}
EVERY = 60.0


class Replica:
    """A server with counts of its own; what it reads and writes is the registry that all share."""

    def __init__(self, name: str, versions: MemoryVersions, run: Path) -> None:
        self.run = run / name
        self.run.mkdir()
        self.versions = versions
        self.cycle = Cycle(self.run, versions.rollouts(), name)

    def look(self, now: float) -> RolloutState:
        return self.cycle.run({"m"}, READY, now).states["m"]

    def count(self, errors: int = 0, stable: int = 9000) -> None:
        """Let its fronts count enough of the current step for a verdict."""
        state = self.versions.rollouts().state("m")
        assert state is not None
        candidate = SideCounts(requests=3000, errors=errors, times={100: 3000 - errors})
        counts = RolloutCounts(
            rollout=state.plan.id,
            step=state.progress.step,
            stable=SideCounts(requests=stable, times={100: stable} if stable else {}),
            candidate=candidate,
            compared=900,
            agreement=900.0,
        )
        write_counts(self.run, "front", counts)


@pytest.fixture
def versions() -> MemoryVersions:
    found = MemoryVersions()
    found.rollouts().start("m", "2", why="better", every="60s", bake="60s")
    return found


@pytest.fixture
def alone(versions: MemoryVersions, tmp_path: Path) -> Replica:
    return Replica("a", versions, tmp_path)


def test_a_good_candidate_is_promoted_step_by_step(alone: Replica, versions: MemoryVersions) -> None:
    seen, now = [], 0.0
    for _ in range(40):
        alone.count()
        state = alone.look(now)
        seen.append(f"{state.phase} {state.step}")
        now += EVERY / 4
    assert list(dict.fromkeys(seen)) == [
        *("running shadow:200", "running 1%", "running 10%", "running 50%", "baking 100%", "promoted 100%")
    ]
    assert versions.current("m", "champion") == "2"
    promotion = versions.history("m")[-1]
    assert (promotion.action, promotion.from_version, promotion.to_version) == ("promote", "1", "2")
    assert "passed shadow:200, 1%, 10%, 50%" in promotion.why


def test_at_the_first_failed_guard_the_weight_is_0(alone: Replica, versions: MemoryVersions) -> None:
    alone.look(0.0)
    alone.count()
    assert alone.look(EVERY).weight == 0.01
    alone.count(errors=300)
    state = alone.look(EVERY + 1)
    assert (state.phase, state.weight) == ("failed", 0.0)
    assert state.stop is not None
    assert (state.stop.guard, versions.current("m", "champion")) == ("errors < stable + 1%", "1")
    assert "10 % of 3,000 requests" in versions.history("m")[-1].why
    assert "failed" in versions.tags.marks["m", "2"]["headwaiter.rollout"]


def bake(replica: Replica) -> float:
    """Go on until the candidate is promoted; the time then."""
    now = 0.0
    while replica.look(now).phase != "baking":
        replica.count()
        now += EVERY
    return now


def test_guards_that_fail_after_the_promotion_bring_the_version_before_back(
    alone: Replica, versions: MemoryVersions
) -> None:
    now = bake(alone)
    alone.count(errors=300, stable=0)
    assert alone.look(now + 1).phase == "failed"
    assert versions.current("m", "champion") == "1"
    assert versions.history("m")[-2].action == "rollout"
    assert versions.history("m")[-1].action == "rollback"


def test_a_rollback_by_hand_wins(alone: Replica, versions: MemoryVersions) -> None:
    now = bake(alone)
    versions.by_hand("rollback", "1")
    assert [alone.look(now + later).phase for later in (1, 100, 200)] == ["overruled", "aborted", "aborted"]
    assert versions.current("m", "champion") == "1"
    versions.by_hand("promote", "2")
    assert alone.look(now + 300).phase == "aborted"
    assert versions.current("m", "champion") == "2"


def test_a_rollout_that_was_overruled_does_not_go_on_once_the_alias_is_moved_back(
    alone: Replica, versions: MemoryVersions
) -> None:
    alone.look(0.0)
    versions.by_hand("promote", "3")
    assert [alone.look(now).phase for now in (1.0, 1.0 + HAND_SECONDS)] == ["overruled", "aborted"]
    assert versions.history("m")[-1].why == "version 2 aborted at shadow:200: champion was moved to 3 by hand"
    versions.by_hand("rollback", "1")
    assert alone.look(2.0 + HAND_SECONDS).weight == 0.0


def test_a_candidate_that_a_hand_made_live_without_a_record_ends_the_rollout(
    alone: Replica, versions: MemoryVersions
) -> None:
    alone.look(0.0)
    versions.tags.aliases["m"]["champion"] = "2"
    seen = [alone.look(now).phase for now in (1.0, 1.1, 1.0 + HAND_SECONDS)]
    assert seen == ["promoting", "promoting", "aborted"]
    assert versions.current("m", "champion") == "2"


def test_cycles_close_together_leave_a_promotion_the_time_to_write_its_record(
    alone: Replica, versions: MemoryVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.look(0.0)
    seen, note = [], versions.note

    def look_first(name: str, move: Move) -> None:
        seen.extend(alone.look(now).phase for now in (1.0, 1.1, 1.2))
        note(name, move)

    monkeypatch.setattr(versions, "note", look_first)
    assert versions.rollouts().finish("m", why="sure").phase == "promoted"
    assert seen == ["promoting"] * 3
    assert versions.current("m", "champion") == "2"


def test_counts_with_too_many_labels_are_told_without_them(versions: MemoryVersions, tmp_path: Path) -> None:
    Replica("a", versions, tmp_path).look(0.0)
    other = Replica("b", versions, tmp_path)
    state = versions.rollouts().state("m")
    assert state is not None
    side = SideCounts(requests=9, labels={f"a label with a long name, number {number}": 1 for number in range(100)})
    write_counts(other.run, "front", RolloutCounts(rollout=state.plan.id, step=0, stable=side, candidate=side))
    other.look(0.0)
    told = msgspec.json.decode(versions.tags.tags["m"][f"{COUNTS}b"], type=RolloutCounts)
    assert (told.stable.requests, told.stable.labels) == (9, {})


@pytest.mark.parametrize("buckets", [150, 250, LAST_BUCKET + 1])
def test_counts_with_too_many_times_are_told_with_wider_buckets(
    versions: MemoryVersions, tmp_path: Path, buckets: int
) -> None:
    Replica("a", versions, tmp_path).look(0.0)
    other = Replica("b", versions, tmp_path)
    state = versions.rollouts().state("m")
    assert state is not None
    times = dict.fromkeys(range(buckets), 1_234_567_890_123)
    side = SideCounts(requests=sum(times.values()), times=times)
    ratios = dict.fromkeys(range(LAST_RATIO_BUCKET + 1), 1_234_567)
    counts = RolloutCounts(rollout=state.plan.id, step=0, stable=side, candidate=side, slowness=ratios)
    write_counts(other.run, "front", counts)
    other.look(0.0)
    text = versions.tags.tags["m"][f"{COUNTS}b"]
    assert len(text) <= MAX_COUNTS
    told = msgspec.json.decode(text, type=RolloutCounts)
    assert told.slowness == ratios, "wider buckets would make a candidate slower, or faster"
    for found in (told.stable, told.candidate):
        assert sum(found.times.values()) == found.requests == side.requests
        assert max(found.times) <= LAST_BUCKET
        for bucket in times:  # no answer is told as faster than it was
            assert sum(number for each, number in found.times.items() if each >= bucket) >= sum(
                number for each, number in times.items() if each >= bucket
            )


def test_times_that_fit_are_told_as_they_are(versions: MemoryVersions, tmp_path: Path) -> None:
    Replica("a", versions, tmp_path).look(0.0)
    other = Replica("b", versions, tmp_path)
    state = versions.rollouts().state("m")
    assert state is not None
    side = SideCounts(requests=100, times=dict.fromkeys(range(100), 1))
    counts = RolloutCounts(rollout=state.plan.id, step=0, stable=side, candidate=side)
    write_counts(other.run, "front", counts)
    other.look(0.0)
    assert msgspec.json.decode(versions.tags.tags["m"][f"{COUNTS}b"], type=RolloutCounts) == counts


def test_a_version_that_is_deleted_in_the_middle_ends_the_rollout(alone: Replica, versions: MemoryVersions) -> None:
    alone.look(0.0)
    versions.numbers.remove("2")
    state = alone.look(1.0)
    assert state.phase == "failed"
    assert state.stop is not None
    assert state.stop.why == "version 2 was deleted from the registry"


def test_a_step_is_kept_where_a_figure_has_no_bound_yet(alone: Replica, versions: MemoryVersions) -> None:
    alone.look(0.0)
    alone.count()
    alone.look(EVERY)
    alone.count(stable=3)
    assert alone.look(EVERY + 1).step.weight == 0.01
    state = versions.rollouts().state("m")
    assert state is not None
    assert state.step.weight == 0.01, "as the registry has it"
    assert set(state.progress.stable) == {"errors < stable + 1%", "p99 < 1.5 × stable"}


def test_while_the_registry_is_down_everything_stays(alone: Replica, versions: MemoryVersions) -> None:
    alone.look(0.0)
    alone.count()
    before = alone.look(EVERY)
    versions.tags.is_down = True
    with pytest.raises(RegistryUnavailable):
        alone.look(EVERY + 1)
    versions.tags.is_down = False
    after = alone.look(EVERY + 2)
    assert (after.phase, after.progress.step) == (before.phase, before.progress.step)


def test_one_of_two_leads_and_the_other_takes_over_once_it_is_silent(versions: MemoryVersions, tmp_path: Path) -> None:
    one, other = Replica("a", versions, tmp_path), Replica("b", versions, tmp_path)
    hours = 3 * 3600.0  # their clocks differ
    for second in range(3):
        assert one.look(float(second)).progress.holder == "a"
        assert other.look(hours + second).progress.holder == "a"
    assert other.look(hours + LEASE_SECONDS).progress.holder == "a"
    assert other.look(hours + LEASE_SECONDS + 3).progress.holder == "b"
    assert one.look(30.0).progress.holder == "b", "it is back, and follows"


def test_the_leader_judges_by_what_all_replicas_counted(versions: MemoryVersions, tmp_path: Path) -> None:
    one, other = Replica("a", versions, tmp_path), Replica("b", versions, tmp_path)
    one.look(0.0)
    one.count()
    assert one.look(EVERY).step.weight == 0.01
    other.count(errors=300)
    other.look(0.0)
    assert f"{COUNTS}b" in versions.tags.tags["m"]
    assert one.look(EVERY + 1).phase == "failed"


def test_a_leader_goes_on_after_the_largest_beat(alone: Replica, versions: MemoryVersions) -> None:
    state = versions.rollouts().state("m")
    assert state is not None
    versions.tags.tags["m"][PROGRESS] = encode(Progress(id=state.plan.id, holder="a", beat=MAX_BEAT))
    assert [alone.look(now).progress.beat for now in (0.0, 1.0)] == [1, 2]


def test_a_second_leader_undoes_no_stop(versions: MemoryVersions, tmp_path: Path) -> None:
    """Both believe that they lead, and one of them has not seen yet what the other one did."""
    one, other = Replica("a", versions, tmp_path), Replica("b", versions, tmp_path)
    one.look(0.0)
    stale = dict(versions.tags.tags["m"])
    one.count()
    one.look(EVERY)
    one.count(errors=300)
    assert one.look(EVERY + 1).phase == "failed"
    versions.tags.tags["m"] |= {key: text for key, text in stale.items() if key.endswith("progress")}
    assert other.look(0.0).phase == "failed"
    assert other.look(LEASE_SECONDS + 1).weight == 0.0


def test_a_manager_that_restarts_goes_on_where_it_was(versions: MemoryVersions, tmp_path: Path) -> None:
    first = Cycle(tmp_path, versions.rollouts())
    first.run({"m"}, READY, 0.0)
    before = first.run({"m"}, READY, 30.0).states["m"].progress
    after = Cycle(tmp_path, versions.rollouts()).run({"m"}, READY, 0.0).states["m"].progress
    assert (after.holder, after.elapsed_seconds) == (before.holder, 30.0)


def test_the_manager_loads_the_candidate_beside_the_stable_version_and_tells_fronts() -> None:
    versions = MemoryVersions()
    rollouts = versions.rollouts()
    server = Server((Reference("m", alias="champion"),), 0, rollouts=rollouts)
    try:
        server.world.targets["champion"] = "1"
        assert server.settle().models["m"].rollout is None
        rollouts.start("m", "2", why="better")
        entry = server.settle(turns=2 * IDLE_POLLS).models["m"]
        assert entry.rollout is not None
        assert (entry.live, entry.rollout.candidate, entry.rollout.weight) == ("1", "2", 0.0)
        assert entry.rollout.is_shadowing
        assert (entry.rollout.phase, entry.rollout.steps[0]) == ("running", "shadow:200")
        assert server.states() == {"1": "ready", "2": "ready"}
        server.restart()
        assert server.table().models["m"].rollout == entry.rollout, "before the registry was read"
        assert server.settle().models["m"].rollout == entry.rollout
        versions.tags.is_down = True
        assert server.settle().models["m"].rollout == entry.rollout
        versions.tags.is_down = False
        rollouts.abort("m", why="enough")
        assert server.settle().models["m"].rollout is None
        assert server.states() == {"1": "ready"}
    finally:
        server.close()


def test_a_cycle_that_hangs_is_given_up_and_the_next_has_a_connection_of_its_own(
    versions: MemoryVersions, tmp_path: Path
) -> None:
    may_answer, connects = threading.Event(), []

    def connect() -> Rollouts:
        connects.append(threading.current_thread())
        if len(connects) <= 2:
            may_answer.wait(WAIT_SECONDS)
        return versions.rollouts()

    settings = ServingSettings(RegistrySettings(tmp_path, ""), (), tmp_path, poll_seconds=1.0)
    keeper = RolloutKeeper(settings, threading.Event().set, connect, spread=lambda seconds: seconds)
    now = 0.0
    for hanging in (1, 2):
        keeper.step(now, ("m",), READY)
        keeper.step(now + GIVE_UP_SECONDS, ("m",), READY)
        wait_until(lambda hanging=hanging: len(connects) == hanging, "it hangs")
        now += GIVE_UP_SECONDS + 1
    keeper.step(now, ("m",), READY)
    assert keeper._running is not None
    wait_until(keeper._running.done, "the new connection has answered")
    current, given_up = keeper._cycle_of[0], list(keeper._given_up)
    keeper.step(now, ("m",), READY)
    assert (len(connects), keeper.view.states["m"].phase) == (3, "running")
    may_answer.set()
    wait_until(lambda: all(each.done() for each in given_up), "the hanging cycles have ended")
    view = keeper.view
    keeper.step(now, ("m",), READY)
    assert keeper.view is view, "what comes too late is not taken"
    assert keeper._cycle_of[0] is current
    keeper.close()


def test_only_so_many_cycles_are_left_hanging(versions: MemoryVersions, tmp_path: Path) -> None:
    may_answer, connects = threading.Event(), []

    def connect() -> Rollouts:
        connects.append(threading.current_thread())
        may_answer.wait(WAIT_SECONDS)
        return versions.rollouts()

    settings = ServingSettings(RegistrySettings(tmp_path, ""), (), tmp_path, poll_seconds=1.0)
    keeper = RolloutKeeper(settings, threading.Event().set, connect, spread=lambda seconds: seconds)
    for turn in range(3 * MAX_GIVEN_UP):
        keeper.step(turn * (GIVE_UP_SECONDS + 1), ("m",), READY)
        wait_until(lambda turn=turn: len(connects) == min(turn, MAX_GIVEN_UP) + 1, "it hangs")
    may_answer.set()
    assert keeper._running is not None
    wait_until(keeper._running.done, "the last one is waited for")
    keeper.step(3 * MAX_GIVEN_UP * (GIVE_UP_SECONDS + 1), ("m",), READY)
    assert keeper.view.states["m"].phase == "running"
    keeper.close()


@pytest.mark.parametrize("counts", ['{"times":{"999999":5}}', "[" * 100_000, "nonsense"])
def test_what_is_wrong_with_one_model_holds_up_no_other(
    versions: MemoryVersions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: str
) -> None:
    replica = Replica("a", versions, tmp_path)
    followed = []
    run_one = replica.cycle._run_one

    def look(name: str, *given: Any) -> RolloutState:
        followed.append(name)
        if name == "broken":
            raise OverflowError("a count beyond all bounds")
        return run_one(name, *given)

    monkeypatch.setattr(replica.cycle, "_run_one", look)
    views = versions.rollouts().read({"m"})
    both = {"broken": views.states["m"], "m": views.states["m"]}
    monkeypatch.setattr(
        replica.cycle._rollouts, "read", lambda names: RolloutViews(both, {}, {"m": {COUNTS + "b": counts}})
    )
    found = replica.cycle.run({"broken", "m"}, READY, 0.0)
    assert followed == ["broken", "m"]
    assert set(found.states) == {"broken", "m"}


def test_the_progress_of_many_guards_fits_a_tag(versions: MemoryVersions) -> None:
    state = versions.rollouts().state("m")
    assert state is not None
    checks = tuple(Check(f"promql(guard_{place}) < 1", "pass", "a figure " * 40) for place in range(20))
    versions.rollouts().write_progress("m", replace(state.progress, checks=checks, waits_for="w" * 3000))
    written = versions.rollouts().state("m")
    assert written is not None
    assert len(written.progress.checks) == 20
    assert all(check.figures for check in written.progress.checks)
    assert len(encode(written.progress)) <= MAX_RECORD
