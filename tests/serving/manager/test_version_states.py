"""The states of versions under any order of events, with the real manager among fakes of its surroundings.

The legal transitions are `version_state.FOLLOWERS`. The manager raises on any other.
"""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry.references import Reference
from serving.errors import EngineError
from serving.manager.policy import CRASH_LIMIT
from serving.manager.version_loader import MAX_RETRY_SECONDS
from serving.wire.demand import DEMAND, Asked, FrontDemand
from serving.wire.report_file import write_report
from serving.wire.version_state import FOLLOWERS, State, check_transition
from tests.serving.manager.world import Server

pytestmark = pytest.mark.slow


ALIASES = ("champion", "canary")
MODELS = tuple(Reference("m", alias=alias) for alias in ALIASES)
VERSIONS = ("1", "2", "3")
versions = st.sampled_from(VERSIONS)


@pytest.mark.parametrize("before", FOLLOWERS)
@pytest.mark.parametrize("after", FOLLOWERS)
def test_a_transition_is_legal_or_raises(before: State, after: State) -> None:
    if after in FOLLOWERS[before]:
        assert check_transition(before, after) == after
    else:
        with pytest.raises(EngineError, match=f"from {before} to {after}"):
            check_transition(before, after)


class Life(RuleBasedStateMachine):
    """Aliases move; versions break and are mended; engines, managers and the registry fail and come back."""

    server: Server

    @initialize(keep=st.integers(0, 2))
    def start(self, keep: int) -> None:
        self.keep = keep
        self.server = Server(MODELS, keep)
        self.world = self.server.world
        self.served: dict[str, str | None] = dict.fromkeys(ALIASES)
        self.states: dict[str, State] = {}
        self.tries: dict[str, list[float]] = {}

    def teardown(self) -> None:
        if hasattr(self, "server"):
            try:
                self.all_is_well_in_the_end()
            finally:
                self.server.close()

    @rule(alias=st.sampled_from(ALIASES), version=versions)
    def move(self, alias: str, version: str) -> None:
        self.world.targets[alias] = version
        self.tries.clear()  # somebody asks for a version: it may be tried at once

    @rule(alias=st.sampled_from(ALIASES))
    def delete_alias(self, alias: str) -> None:
        self.world.targets.pop(alias, None)
        self.tries.clear()

    @rule(alias=st.sampled_from(ALIASES), version=versions)
    def move_and_load(self, alias: str, version: str) -> None:
        """Move to a good version and give it enough time to load."""
        self.world.unfetchable.discard(version)
        self.world.unloadable.discard(version)
        self.move(alias, version)
        for _ in range(3):
            self.step(1.1)
            self.world.let_engines_go_on()
        self.step()

    @rule(alias=st.sampled_from(ALIASES), version=versions, is_damaged=st.booleans())
    def move_to_a_bad_version(self, alias: str, version: str, is_damaged: bool) -> None:
        """The live version stays. The bad one is retried with growing pauses, and goes live once it is mended."""
        bad = self.world.unfetchable if is_damaged else self.world.unloadable
        bad.add(version)
        self.move(alias, version)
        for seconds in (1.1, 1.1, 20.0, 20.0, 40.0):
            self.step(seconds)
            self.world.let_engines_go_on()
        bad.discard(version)

    @rule(alias=st.sampled_from(ALIASES))
    @precondition(lambda self: not self.world.unloadable)
    def crash_again_and_again(self, alias: str) -> None:
        """The previous live version serves again if it is still loaded."""
        self.step()  # what was not to stay warm has begun to leave
        live, before = self.served[alias], next(iter(self.previous(alias)), "")
        is_isolated = list(self.served.values()).count(live) == 1 and self.world.targets.get(alias) == live
        may_give_way = is_isolated and self.states.get(before) == "ready" and self.is_healthy(before)
        for _ in range(CRASH_LIMIT):
            for body in self.world.running():
                if body.order.version == live:
                    body.kill()
            self.step()
            self.step(31.0)
            self.world.let_engines_go_on()
            self.step()
        if live is not None and may_give_way:
            assert self.served[alias] == before

    @rule(version=versions, is_damaged=st.booleans())
    def break_a_version(self, version: str, is_damaged: bool) -> None:
        """Damage the files of the version, or make its engines fail."""
        (self.world.unfetchable if is_damaged else self.world.unloadable).add(version)

    @rule()
    def mend_all_versions(self) -> None:
        self.world.unfetchable.clear()
        self.world.unloadable.clear()

    @rule(seconds=st.sampled_from((1.1, 40.0)), is_restarted=st.booleans())
    def the_registry_is_down_for_a_while(self, seconds: float, is_restarted: bool) -> None:
        """Serving goes on without the registry, whose aliases may move meanwhile."""
        self.world.is_down = True
        self.step(seconds)
        if is_restarted:
            self.kill_the_manager()
        self.world.let_engines_go_on()
        self.step(seconds)
        self.step(seconds)
        self.world.is_down = False

    @rule(data=st.data())
    @precondition(lambda self: self.world.running())
    def kill_an_engine(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.world.running())).kill()

    @rule()
    def go_on(self) -> None:
        """Let engines load or leave."""
        self.world.let_engines_go_on()

    @rule(seconds=st.sampled_from((0.05, 1.1, 20.0, 70.0, 4000.0)), times=st.integers(1, 4))
    def wait(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.step(seconds)

    @rule()
    def kill_the_manager(self) -> None:
        answering, before = self.world.answering(), len(self.world.fetched)
        self.server.restart()
        after = self.server.states()
        note(f"adopted {after}")
        self.tries.clear()
        for alias, live in self.served.items():
            if live in answering:
                assert (self.server.serves(alias), after.get(str(live))) == (live, "ready")
        assert len(self.world.fetched) == before
        self.served = {alias: self.server.serves(alias) for alias in ALIASES}
        self.states = after

    @rule(alias=st.sampled_from(ALIASES), data=st.data())
    @precondition(lambda self: "ready" in self.states.values())
    def move_to_a_warm_version(self, alias: str, data: st.DataObject) -> None:
        """A version that is already loaded is live after one poll, without a load."""
        kept = {*self.served.values()}.union(*(self.previous(alias)[: self.keep] for alias in ALIASES))
        warm = sorted(version for version in kept if version and self.is_healthy(version))
        if not warm:
            return
        version = data.draw(st.sampled_from(warm))
        self.move(alias, version)
        before = len(self.world.fetched)
        self.step(31.0)  # the longest pause of a registry that was in trouble
        self.step()
        if self.is_healthy(version):
            assert self.server.serves(alias) == version
            assert version not in [fetched for _, fetched in self.world.fetched[before:]]

    def step(self, seconds: float = 0.05) -> None:
        """Run one step of the manager and check what must hold after each."""
        before = len(self.world.fetched)
        self.server.step(seconds)
        states = self.server.states()
        note(f"{self.world.now}: {states} {[self.server.serves(alias) for alias in ALIASES]}")
        for version, state in states.items():
            was = self.states.get(version)
            assert was in (None, state) or is_reachable(was, state), (version, was, state)
        for alias in ALIASES:
            live, old = self.server.serves(alias), self.served[alias]
            assert live is not None or old is None, "what was live stays until another one is"
            assert live is None or states.get(live) == "ready"
            self.served[alias] = live
            for version in self.previous(alias)[: self.keep]:
                if self.states.get(version) == "ready":
                    assert states.get(version) in ("ready", "failed"), "the versions before it stay warm"
        for version, was in self.states.items():
            if was == "ready" and states.get(version) in (None, "draining"):
                self.tries.pop(version, None)  # it was good and nobody wants it any more: its next load is no retry
        self.states = states
        for at, version in self.world.fetched[before:]:
            self.tries.setdefault(version, []).append(at)

    @invariant()
    def a_bad_version_is_tried_less_and_less_often(self) -> None:
        for times in getattr(self, "tries", {}).values():
            pauses = [later - earlier for earlier, later in pairwise(times)]
            for number, pause in enumerate(pauses):
                assert pause >= min(self.server.settings.retry_seconds * 2**number, MAX_RETRY_SECONDS)

    @invariant()
    def few_are_held(self) -> None:
        """Each alias holds its live version, its target, one version to fall back to, and those kept loaded."""
        held = [state for state in getattr(self, "states", {}).values() if state in ("loading", "ready")]
        assert len(held) <= len(ALIASES) * (3 + getattr(self, "keep", 0))

    def previous(self, alias: str) -> list[str]:
        """Return the versions that the alias served before the live one, latest first."""
        entry = self.server.table().models.get("m")
        found = entry.previous.get(f"m@{alias}", []) if entry is not None else []
        return [version for version in found if version != self.served[alias]]

    def is_healthy(self, version: str) -> bool:
        """Return whether the version is ready and none of its engines crashed lately."""
        held = self.server.manager._versions.get(("m", version))
        running = {body.order.version for body in self.world.running()}
        return held is not None and held.state == "ready" and held.crashes == 0 and version in running

    def all_is_well_in_the_end(self) -> None:
        """Once no event is left, each alias serves its target, the right versions are loaded and no engine is lost."""
        self.world.is_down = False
        self.world.unfetchable.clear()
        self.world.unloadable.clear()
        for _ in range(6):
            self.tries.clear()
            self.step(MAX_RETRY_SECONDS + 1)
            self.world.let_engines_go_on()
            self.step(0.05)
            self.world.let_engines_go_on()
        gave_up = {version for version, state in self.states.items() if state == "failed"}
        for alias in ALIASES:
            target = self.world.targets.get(alias)
            if target is not None and target not in gave_up:
                assert self.server.serves(alias) == target
        wanted = {version for version in (*self.served.values(), *self.world.targets.values()) if version}
        named = self.server.manager._watch.view.targets.values()
        wanted |= {found.version for found in named if found is not None}  # an alias that is gone means what it meant
        for alias in ALIASES:
            wanted |= set(self.previous(alias)[: self.keep])
        assert set(self.states) <= wanted
        running = {body.order.version for body in self.world.running()}
        assert running == {version for version, state in self.states.items() if state == "ready"}


def is_reachable(before: State, after: State) -> bool:
    """Return whether a version can get from `before` to `after`, perhaps by being unloaded and loaded again."""
    seen, found = set(), {before}
    while found - seen:
        seen |= found
        found |= {follower for state in found for follower in FOLLOWERS[state]}
    return after in found or after == "loading"


Life.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_whatever_happens_the_rules_of_a_versions_life_hold = Life.TestCase


def test_the_manager_looks_less_often_once_nothing_happens_and_nobody_asks() -> None:
    server = Server((Reference("m", alias="champion"),), 1)
    try:
        manager = server.manager
        assert not manager._is_still(server.world.now), "it starts"
        server.world.targets["champion"] = "1"
        server.settle()
        assert manager._is_still(server.world.now)
        server.world.targets["champion"] = "2"
        server.step(1.1)
        server.step()
        assert not manager._is_still(server.world.now), "a version is loaded"
        server.settle()
        assert manager._is_still(server.world.now)
        next(process for process in server.world.running()).kill()
        server.step()
        assert not manager._is_still(server.world.now), "an engine is restarted"
        server.settle()
        (server.settings.run / DEMAND).mkdir(exist_ok=True)
        asked = Asked("m", "2", server.world.now)
        write_report(server.settings.run / DEMAND / "1.json", FrontDemand(server.world.now, (asked,)))
        server.step()
        assert not manager._is_still(server.world.now), "somebody asked"
        server.settle(6.0)
        assert manager._is_still(server.world.now)
    finally:
        server.close()
