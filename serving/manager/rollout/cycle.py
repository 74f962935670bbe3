"""One turn of a replica that follows rollouts: read the registry, sum what was counted, decide (`steps`), write.

Each rollout has one leader, by a lease in its progress: the leader raises `beat` in each cycle, and a replica that has
seen the same beat for LEASE_SECONDS by its own clock takes over, so clocks may differ. Two leaders for a moment do no
harm: both follow the same policy, a step is only ever followed by the next one, and a stop is a tag that none removes.
"""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from registry.errors import NotFound, RegistryUnavailable, RequestRefused
from registry.rollout.control import MAX_COUNTS, Rollouts, RolloutViews
from registry.rollout.state import COUNTS, MAX_BEAT, RolloutState
from serving.manager.rollout.annotations import Annotator
from serving.manager.rollout.prometheus import QUERIES_SECONDS, read_guards
from serving.manager.rollout.steps import CandidateHealth, Decision, decide
from serving.wire.rollout_counts import (
    FOLDER,
    LAST_BUCKET,
    RolloutCounts,
    SideCounts,
    read_counts,
    remove_counts,
    sum_counts,
)
from serving.wire.version_state import State

LEASE_SECONDS = 15.0
"""A leader that has not written for so long is followed by another one. Untuned: some polls."""
HAND_SECONDS = 5.0
"""A move of the alias whose record is missing for so long was made by hand. Untuned: a promotion writes it at once."""
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

VersionStates = Mapping[tuple[str, str], State]
"""(model, version) → state, of the versions that this server holds."""

logger = logging.getLogger("headwaiter.rollout")


class Cycle:
    """What one replica remembers from cycle to cycle. Of the keeper's thread."""

    def __init__(
        self,
        run: Path,
        rollouts: Rollouts,
        replica: str = "",
        prometheus_url: str = "",
        annotator: Annotator | None = None,
    ) -> None:
        """replica: its name among all; by default one that a manager which is restarted finds again."""
        self._annotator = annotator or Annotator()
        self._prometheus_url = prometheus_url
        self._query_until = 0.0
        """When this cycle has no more time for queries, of `time.monotonic()`."""
        self._run = run
        self._rollouts = rollouts
        self._replica = replica or _replica_name(run)
        self._seen: dict[str, tuple[str, int, float]] = {}
        """Per rollout: the holder and the beat that were seen last, and since when."""
        self._led_at: dict[str, float] = {}
        self._overruled: dict[str, float] = {}
        """Per rollout: since when its alias is seen elsewhere than its records say."""
        self._told: dict[str, tuple[float, RolloutCounts]] = {}

    def run(self, names: Collection[str], states: VersionStates, now: float) -> RolloutViews:
        """Read all rollouts, and lead those that are this replica's. Raises RegistryUnavailable."""
        views = self._rollouts.read(names)
        self._query_until = time.monotonic() + QUERIES_SECONDS
        found = dict(views.states)
        for name, state in views.states.items():
            try:
                found[name] = self._run_one(name, state, views.counts.get(name, {}), states, now)
            except Exception as error:  # what a record or a replica says of one model holds up no other's guards
                if isinstance(error, RegistryUnavailable) and not isinstance(error, RequestRefused):
                    raise
                logger.exception("the rollout of %s could not be looked at; it is tried again", name)
        return RolloutViews(found, views.refused)

    def _run_one(
        self, name: str, state: RolloutState, others: Mapping[str, str], states: VersionStates, now: float
    ) -> RolloutState:
        if state.is_active or (state.stop is not None and state.serves_own):
            state = self._look_at(name, state, others, states, now)
        elif state.phase in ("promoting", "overruled"):
            state = self._end_overruled(name, state, now)
        else:
            remove_counts(self._run, state.plan.id)
        if state.progress.holder == self._replica:
            self._annotator.follow(name, state)
        return state

    def _end_overruled(self, name: str, state: RolloutState, now: float) -> RolloutState:
        """Write down that a hand moved the alias, so that the rollout does not go on if it is moved back.

        After HAND_SECONDS: a cycle may be in between the two writes of a promotion, by a person or another leader.
        """
        plan = state.plan
        if not self._leads(state, now):
            return state
        if now - self._overruled.setdefault(plan.id, now) < HAND_SECONDS:
            return state
        why = f"{plan.alias} was moved to {state.live or 'no version'} by hand"
        return self._rollouts.stop(name, state, outcome="aborted", who=f"rollout begun by {plan.who}", why=why)

    def _look_at(
        self, name: str, state: RolloutState, others: Mapping[str, str], states: VersionStates, now: float
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
        readings = read_guards(self._prometheus_url, state.plan.parsed_guards(), name, state, self._query_until)
        decision = decide(state, sum_counts(parts, rollout, step), seconds, health, readings)
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

    def _health(self, name: str, state: RolloutState, states: VersionStates) -> CandidateHealth:
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
            progress = replace(decision.progress, holder=self._replica, beat=state.progress.beat % MAX_BEAT + 1)
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
            self._rollouts.write_counts(name, self._replica, _encoded(own))
            self._told[name] = now, own


def _encoded(counts: RolloutCounts) -> str:
    """What MLflow keeps of the counts: without labels where there are too many, then with wider buckets of times."""
    text = msgspec.json.encode(counts).decode()
    width = 1
    while len(text) > MAX_COUNTS and width <= LAST_BUCKET:
        shorter = replace(
            counts, stable=_shortened(counts.stable, width), candidate=_shortened(counts.candidate, width)
        )
        text = msgspec.json.encode(shorter).decode()
        width *= 2
    return text


def _shortened(side: SideCounts, width: int) -> SideCounts:
    """A side without labels. Each `width` buckets of times are one, their slowest: no answer is told as faster."""
    times = Counter[int]()
    for bucket, number in side.times.items():
        times[min(LAST_BUCKET, -(-bucket // width) * width)] += number
    return replace(side, labels={}, confidence=0.0, times=dict(times))


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
