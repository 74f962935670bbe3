"""Rollouts by hand, in a registry in memory; the gates of a start are those of `promote` and tested in MLflow's own."""

from pathlib import Path

import pytest

from registry.errors import BreakingChange, HistoryError, NotFound, RegistryUnavailable, RolloutError
from registry.flavor import log_model
from registry.history import Move
from registry.rollout.control import Rollouts
from registry.rollout.state import COUNTS, PLAN, STOP
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.rollout_registry import MemoryVersions

pytestmark = pytest.mark.slow


@pytest.fixture
def versions() -> MemoryVersions:
    return MemoryVersions()


@pytest.fixture
def rollouts(versions: MemoryVersions) -> Rollouts:
    return versions.rollouts()


def test_a_rollout_starts_with_the_defaults_and_is_in_the_history(versions: MemoryVersions, rollouts: Rollouts) -> None:
    state = rollouts.start("m", "2", why="better on the new labels", who="ada")
    assert (state.phase, state.plan.stable, state.plan.candidate, state.weight) == ("running", "1", "2", 0.0)
    assert state.is_shadowing
    (entry,) = versions.history("m")
    assert (entry.action, entry.from_version, entry.to_version, entry.who) == ("rollout", "1", "1", "ada")
    assert "version 2 starts, by shadow:200, 1%, 10%, 50%, 100%" in entry.why
    assert versions.current("m", "champion") == "1"


def test_what_cannot_be_started_is_refused(versions: MemoryVersions, rollouts: Rollouts) -> None:
    with pytest.raises(HistoryError, match="the reason is empty"):
        rollouts.start("m", "2", why=" ")
    with pytest.raises(RolloutError, match="150%"):
        rollouts.start("m", "2", why="x", steps=("150%",))
    with pytest.raises(RolloutError, match="version 1 is what champion names already"):
        rollouts.start("m", "1", why="x")
    with pytest.raises(RolloutError, match="m@other names no version to compare with: promote 2 instead"):
        rollouts.start("m", "2", why="x", alias="other")
    with pytest.raises(NotFound, match="m/9"):
        rollouts.start("m", "9", why="x")
    with pytest.raises(NotFound, match="nobody"):
        rollouts.start("nobody", "2", why="x")
    assert PLAN not in versions.tags.tags["m"]


def test_one_rollout_at_a_time(rollouts: Rollouts) -> None:
    rollouts.start("m", "2", why="x", who="ada")
    with pytest.raises(RolloutError, match="a rollout of version 2 of m is running at shadow:200, begun by ada"):
        rollouts.start("m", "3", why="y")
    rollouts.abort("m", why="enough")
    assert rollouts.start("m", "3", why="y").plan.candidate == "3"


def test_pause_and_resume(rollouts: Rollouts) -> None:
    rollouts.start("m", "2", why="x")
    assert rollouts.order("m", "pause", why="lunch", who="ada").phase == "paused"
    with pytest.raises(RolloutError, match="nothing to pause"):
        rollouts.order("m", "pause", why="lunch")
    assert rollouts.order("m", "resume", why="back").phase == "running"
    with pytest.raises(RolloutError, match="nothing to resume"):
        rollouts.order("m", "resume", why="back")


def test_abort_gives_all_requests_back_and_marks_the_candidate(versions: MemoryVersions, rollouts: Rollouts) -> None:
    rollouts.start("m", "2", why="x")
    assert rollouts.abort("m", why="a bug report", who="eve").phase == "aborted"
    assert versions.tags.marks["m", "2"] == {PLAN: "aborted: a bug report"}
    assert versions.history("m")[-1].why == "version 2 aborted at shadow:200: a bug report"
    with pytest.raises(RolloutError, match="is over: aborted; begin another with headwaiter rollout start m VERSION"):
        rollouts.abort("m", why="again")


def test_finish_promotes_at_once(versions: MemoryVersions, rollouts: Rollouts) -> None:
    rollouts.start("m", "2", why="x")
    assert rollouts.finish("m", why="sure").phase == "promoted"
    assert versions.current("m", "champion") == "2"
    assert versions.history("m")[-1].action == "promote"


def test_a_reader_between_the_writes_of_a_promotion_sees_no_hand(
    versions: MemoryVersions, rollouts: Rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts.start("m", "2", why="x")
    seen, note = [], versions.note

    def read_first(name: str, move: Move) -> None:
        state = rollouts.state("m")
        seen.append(state and state.phase)
        note(name, move)

    monkeypatch.setattr(versions, "note", read_first)
    assert rollouts.finish("m", why="sure").phase == "promoted"
    assert seen == ["promoting"]


def test_an_abort_after_the_promotion_moves_the_alias_back_once(versions: MemoryVersions, rollouts: Rollouts) -> None:
    state = rollouts.start("m", "2", why="x")
    rollouts.promote("m", state, who="rollout", why="passed")
    assert rollouts.abort("m", why="phones ring").phase == "aborted"
    assert versions.current("m", "champion") == "1"
    versions.by_hand("promote", "2")
    found = rollouts.state("m")
    assert found is not None
    rollouts.revert("m", found, who="rollout", why="late")
    assert versions.current("m", "champion") == "2", "promoted by hand since"


def test_a_model_without_a_rollout_says_how_to_begin_one(rollouts: Rollouts) -> None:
    with pytest.raises(RolloutError, match="headwaiter rollout start m VERSION"):
        rollouts.abort("m", why="x")
    assert rollouts.state("m") is None


def test_a_damaged_record_touches_no_other_model(versions: MemoryVersions, rollouts: Rollouts) -> None:
    versions.tags.tags["other"], versions.tags.aliases["other"] = {PLAN: "{"}, {}
    rollouts.start("m", "2", why="x")
    versions.tags.tags["m"][f"{COUNTS}a"] = "text"
    found = rollouts.read({"m", "other"})
    assert set(found.states) == {"m"}
    assert found.counts == {"m": {f"{COUNTS}a": "text"}}
    assert "damaged" in found.refused["other"]
    assert not rollouts.read({"third"}).states, "only the models that are asked for"
    versions.tags.tags["m"][STOP] = "{"
    assert "the candidate gets no requests" in rollouts.read({"m"}).refused["m"]
    assert rollouts.start("m", "2", why="again").phase == "running", "what cannot be read makes room"


def test_a_registry_that_is_down_changes_nothing(versions: MemoryVersions, rollouts: Rollouts) -> None:
    rollouts.start("m", "2", why="x")
    before = dict(versions.tags.tags["m"])
    versions.tags.is_down = True
    with pytest.raises(RegistryUnavailable):
        rollouts.abort("m", why="x")
    assert versions.tags.tags["m"] == before


def test_in_mlflow_a_start_passes_the_gates_of_promote(models: dict[str, Path], settings: RegistrySettings) -> None:
    log_model(models["single"], task="text-classification", name="m")
    log_model(models["single"], task="text-classification", name="m")
    log_model(models["tokens"], task="token-classification", name="m")
    versions = Versions(settings)
    versions.promote("m", "1", why="first")
    rollouts = Rollouts(versions)
    with pytest.raises(BreakingChange, match="token-classification"):
        rollouts.start("m", "3", why="another task")
    assert rollouts.read({"m"}).states == {}
    state = rollouts.start("m", "2", why="better")
    assert rollouts.read({"m"}).states == {"m": state}
    rollouts.write_progress("m", state.progress)
    rollouts.write_counts("m", "a", "{}")
    assert rollouts.read({"m"}).counts == {"m": {f"{COUNTS}a": "{}"}}
    rollouts.check_candidate("m", state)
    assert rollouts.finish("m", why="sure").phase == "promoted"
    assert versions.current("m") == "2"
    assert versions.rollback("m", why="by hand").to_version == "1"
    assert versions._client.get_model_version("m", "2").tags[PLAN] == "promoted"
    rollouts.start("m", "2", why="again")
    assert rollouts.read({"m"}).counts == {"m": {}}, "of the rollout before"
