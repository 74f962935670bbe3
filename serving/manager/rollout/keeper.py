"""Follows the rollouts of the served models, and leads those that no other replica leads.

A cycle reads the registry, sums what was counted, decides (`steps`) and writes. It runs in a thread of its own and
fails as a whole: then everything stays as it is until the next one.

Each rollout has one leader, by a lease in its progress: the leader raises `beat` in each cycle, and a replica that has
seen the same beat for LEASE_SECONDS by its own clock takes over, so clocks may differ. Two leaders for a moment do no
harm: both follow the same policy, a step is only ever followed by the next one, and a stop is a tag that none removes.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path

import msgspec
from msgspec.structs import replace

from registry.errors import NotFound
from registry.redaction import describe_error
from registry.references import Reference
from registry.rollout.control import Rollouts, RolloutViews
from registry.rollout.guards import Guard
from registry.rollout.state import COUNTS, RolloutState, Verdict
from registry.versions import Versions
from serving.manager.registry_poll import MakePool
from serving.manager.rollout.steps import CandidateHealth, Decision, decide
from serving.runtime.daemon_pool import DaemonPool
from serving.settings import ServingSettings
from serving.wire.rollout_counts import FOLDER, RolloutCounts, read_counts, remove_counts, sum_counts
from serving.wire.routing_table import ModelEntry, RolloutEntry
from serving.wire.version_state import State

LEASE_SECONDS = 15.0
"""A leader that has not written for so long is followed by another one. Untuned: some polls."""
COUNTS_SECONDS = 5.0
"""How often a replica that does not lead tells what it counted. Untuned."""

TROUBLES: Mapping[State | None, str] = {
    None: "is not loaded yet",
    "loading": "is loading",
    "unloaded": "is not loaded",
    "failed": "could not be loaded: see GET /models",
    "draining": "is leaving",
    "ready": "",
}

VERDICTS: Mapping[Verdict, int] = {"pass": 1, "inconclusive": 0, "fail": -1}
WAITING_STEP_SECONDS = 60.0
"""The resolution of `waiting_seconds`: the routing table, in which it is, changes no more often for it."""

States = Mapping[tuple[str, str], State]
"""(model, version) → state, of the versions that this server holds."""

logger = logging.getLogger("headwaiter.rollout")


class RolloutKeeper:
    """view: the rollouts as last read. `step` never blocks; everything else is of the manager's thread, too."""

    def __init__(
        self,
        settings: ServingSettings,
        woken: threading.Event,
        connect: Callable[[], Rollouts] | None = None,
        *,
        make_pool: MakePool = DaemonPool,
    ) -> None:
        """woken: set when `view` was replaced. connect: makes the registry's client, in the thread."""
        self.view = RolloutViews()
        self._settings = settings
        self._woken = woken
        self._connect = connect or (lambda: Rollouts(Versions(settings.registry)))
        self._pool = make_pool(1, "headwaiter-rollouts")
        self._cycle_of: Cycle | None = None
        self._running: Future[RolloutViews] | None = None
        self._next = 0.0
        self._again = False
        self._trouble = ""
        self._left: Mapping[str, RolloutEntry] | None = {}
        """What the manager before has left, until the registry was read."""

    def adopt(self, models: Mapping[str, ModelEntry]) -> None:
        """Go on with the rollouts of a manager that was killed, until the registry was read."""
        self._left = {name: model.rollout for name, model in models.items() if model.rollout is not None}

    def step(self, now: float, names: Collection[str], states: States, *, at_once: bool = False) -> None:
        """Take the answer of a cycle that has ended, and begin the next one if it is time to, or `at_once`."""
        if self._running is not None:
            if not self._running.done():
                self._again |= at_once
                return
            self._take(self._running)
            self._running = None
        self._again |= at_once
        if now >= self._next or self._again:
            self._next, self._again = now + self._settings.poll_seconds, False
            self._running = self._pool.submit(self._cycle, frozenset(names), dict(states), now)
            self._running.add_done_callback(lambda _: self._woken.set())

    def references(self) -> tuple[Reference, ...]:
        """The versions that are to be loaded beside the live ones: candidates, and after a promotion the one before."""
        found = []
        if self._left is not None:
            return tuple(Reference(name, version=entry.candidate) for name, entry in self._left.items())
        for name, state in self.view.states.items():
            if state.is_active:
                version = state.plan.stable if state.phase == "baking" else state.plan.candidate
                found.append(Reference(name, version=version))
        return tuple(found)

    def entry(self, name: str) -> RolloutEntry | None:
        """The model's rollout for the routing table; None where no request is touched."""
        if self._left is not None:
            return self._left.get(name)
        state = self.view.states.get(name)
        if state is None or not state.is_active:
            return None
        return RolloutEntry(
            id=state.plan.id,
            step=state.progress.step,
            alias=state.plan.alias,
            stable=state.plan.stable,
            candidate=state.plan.candidate,
            weight=state.weight,
            is_shadowing=state.is_shadowing,
            salt=state.plan.salt,
            verdicts={Guard.parse(check.guard).metric: VERDICTS[check.verdict] for check in state.progress.checks},
            waiting_seconds=_waiting_seconds(state),
        )

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, ended: Future[RolloutViews]) -> None:
        try:
            self.view = ended.result()
            self._trouble, self._left = "", None
        except Exception as error:  # the registry may fail in any way; weights stay as they are
            told = describe_error(error)
            if told != self._trouble:
                logger.warning("rollouts stay as they are, the registry cannot be read or written: %s", told)
            self._trouble = told

    def _cycle(self, names: Collection[str], states: States, now: float) -> RolloutViews:
        if self._cycle_of is None:
            self._cycle_of = Cycle(self._settings.run, self._connect())
        return self._cycle_of.run(names, states, now)


class Cycle:
    """What one replica remembers from cycle to cycle. Of the keeper's thread."""

    def __init__(self, run: Path, rollouts: Rollouts, replica: str = "") -> None:
        """replica: its name among all; by default one that a manager which is restarted finds again."""
        self._run = run
        self._rollouts = rollouts
        self._replica = replica or _replica_name(run)
        self._seen: dict[str, tuple[str, int, float]] = {}
        """Per rollout: the holder and the beat that were seen last, and since when."""
        self._led_at: dict[str, float] = {}
        self._told: dict[str, tuple[float, RolloutCounts]] = {}

    def run(self, names: Collection[str], states: States, now: float) -> RolloutViews:
        """Read all rollouts, and lead those that are this replica's. Raises RegistryError."""
        views = self._rollouts.read(names)
        found = dict(views.states)
        for name, state in views.states.items():
            if state.is_active or (state.stop is not None and state.serves_own):
                found[name] = self._look_at(name, state, views.counts.get(name, {}), states, now)
            else:
                remove_counts(self._run, state.plan.id)
        return RolloutViews(found, views.refused)

    def _look_at(
        self, name: str, state: RolloutState, others: Mapping[str, str], states: States, now: float
    ) -> RolloutState:
        rollout, step = state.plan.id, state.progress.step
        own = sum_counts(read_counts(self._run, rollout, step), rollout, step)
        if not self._leads(state, now):
            self._led_at.pop(rollout, None)
            self._tell(name, own, now)
            return state
        parts = [own, *_decoded(text for key, text in others.items() if key != COUNTS + self._replica)]
        seconds = now - self._led_at.get(rollout, now)
        self._led_at[rollout] = now
        health = self._health(name, state, states)
        decision = decide(state, sum_counts(parts, rollout, step), seconds, health)
        found = self._act(name, state, decision)
        remove_counts(self._run, rollout, keep_step=found.progress.step)
        return found

    def _leads(self, state: RolloutState, now: float) -> bool:
        """Whether this replica holds the lease, or may take it."""
        rollout, progress = state.plan.id, state.progress
        holder, beat, since = self._seen.get(rollout, ("", -1, now))
        if (holder, beat) != (progress.holder, progress.beat):
            since = now
        self._seen[rollout] = (progress.holder, progress.beat, since)
        return progress.holder in ("", self._replica) or now - since > LEASE_SECONDS

    def _health(self, name: str, state: RolloutState, states: States) -> CandidateHealth:
        try:
            self._rollouts.check_candidate(name, state)
        except NotFound:
            return CandidateHealth(is_deleted=True)
        return CandidateHealth(TROUBLES[states.get((name, state.plan.candidate))])

    def _act(self, name: str, state: RolloutState, decision: Decision) -> RolloutState:
        """Write the progress, then do what was decided. A failure between the two is mended by the next cycle."""
        plan = state.plan
        who = f"rollout begun by {plan.who}"
        if decision.action in ("stay", "promote", "end") and state.is_active:
            progress = replace(decision.progress, holder=self._replica, beat=state.progress.beat + 1)
            self._rollouts.write_progress(name, progress)
            if progress.step != state.progress.step:
                logger.info("rollout of %s/%s: %s", name, plan.candidate, decision.why)
        match decision.action:
            case "promote":
                logger.info("rollout of %s/%s: promoted, it %s", name, plan.candidate, decision.why)
                self._rollouts.promote(name, state, who=who, why=f"{plan.why}; {decision.why}")
            case "stop":
                logger.error("rollout of %s/%s failed at %s: %s", name, plan.candidate, state.step, decision.why)
                self._rollouts.stop(name, state, outcome="failed", who=who, why=decision.why, guard=decision.guard)
                self._rollouts.revert(name, state, who=who, why=decision.why)
            case "revert":
                self._rollouts.revert(name, state, who=who, why=decision.why)
            case "end":
                logger.info("rollout of %s/%s is over: %s", name, plan.candidate, decision.why)
                self._rollouts.end(name, state, who=who, why=decision.why)
            case "stay":
                pass
        return self._rollouts.state(name) or state

    def _tell(self, name: str, own: RolloutCounts, now: float) -> None:
        """Let the leader know what this replica counted."""
        at, before = self._told.get(name, (-COUNTS_SECONDS, RolloutCounts(rollout="", step=0)))
        if own != before and now - at >= COUNTS_SECONDS:
            self._rollouts.write_counts(name, self._replica, msgspec.json.encode(own).decode())
            self._told[name] = now, own


def _waiting_seconds(state: RolloutState) -> float:
    planned = state.plan.bake_seconds if state.phase == "baking" else state.plan.every_seconds
    late = max(0.0, state.progress.waited_seconds - planned)
    return late // WAITING_STEP_SECONDS * WAITING_STEP_SECONDS


def _decoded(texts: Iterable[str]) -> list[RolloutCounts]:
    """What other replicas counted; those of another release are left out."""
    found = []
    for text in texts:
        try:
            found.append(msgspec.json.decode(text, type=RolloutCounts))
        except msgspec.DecodeError:
            continue
    return found


def _replica_name(run: Path) -> str:
    """Of this server: kept in its run folder, so that a manager which is restarted leads on at once."""
    path = run / FOLDER / "replica"
    try:
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(secrets.token_hex(4))
        return path.read_text() or secrets.token_hex(4)
    except OSError:  # a full disk: another name is as good, after LEASE_SECONDS
        return secrets.token_hex(4)
