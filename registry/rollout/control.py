"""Rollouts in the registry: started, changed and ended by people, and led by managers. Every call blocks on MLflow."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec.structs import replace

from registry.errors import RolloutError
from registry.history import MAX_RECORD, Move, check_reason
from registry.references import Reference
from registry.rollout.plan import BAKE, EVERY, GUARDS, STEPS, make_plan
from registry.rollout.state import (
    COUNTS,
    DONE,
    ORDER,
    PLAN,
    PROGRESS,
    STOP,
    End,
    Progress,
    RolloutOrder,
    RolloutState,
    encode,
    own_mark,
    read_state,
)
from registry.settings import DEFAULT_ALIAS
from registry.versions import Versions, user_name

MAX_COUNTS = MAX_RECORD
"""Characters of what a replica counted that MLflow keeps."""
SHORTER_FIGURES = (500, 200, 80, 0)
"""Characters of each guard's figures: the most with which the record of the progress fits a tag."""
MAX_WHY = 2000
"""Characters of a reason in the history, of the 5,000 of a record."""


@dataclass(frozen=True)
class RolloutViews:
    """The rollouts of some models. refused: of each one that cannot be read, why. counts: what replicas counted.

    counts: model → tag of a replica → text.
    """

    states: Mapping[str, RolloutState] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Rollouts:
    """The rollouts of a registry. Raises RegistryUnavailable where MLflow fails, NotFound for a model that is gone."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    def start(
        self,
        name: str,
        version: str,
        *,
        why: str,
        who: str | None = None,
        alias: str = DEFAULT_ALIAS,
        steps: Sequence[str] = STEPS,
        every: str = EVERY,
        bake: str = BAKE,
        guards: Sequence[str] = GUARDS,
        allow_breaking: str | None = None,
    ) -> RolloutState:
        """Begin a rollout of `version` to what `alias` serves.

        Its files are verified and it is compared with the live version, as `Versions.promote` does; raises a
        PromotionRefused. Raises RolloutError for steps, guards or times that cannot be read, where a rollout is under
        way, or where the alias names nothing that could be compared.
        """
        check_reason(why)
        stable = self._versions.current(name, alias)
        if stable is None:
            raise RolloutError(f"{name}@{alias} names no version to compare with: promote {version} instead")
        plan = make_plan(
            alias=alias,
            stable=stable,
            candidate=version,
            who=who or user_name(),
            why=why,
            now=time.time(),
            steps=steps,
            every=every,
            bake=bake,
            guards=guards,
        )
        self._refuse_second(name)
        if self._versions.admit(name, version, alias, allow_breaking)[0] != stable:
            raise RolloutError(f"{name}@{alias} was moved meanwhile: start the rollout again")
        text = encode(plan)
        if len(text) > MAX_RECORD:
            raise RolloutError(
                f"the plan has {len(text):,} characters, MLflow keeps {MAX_RECORD:,}: give a shorter reason, or fewer "
                "guards"
            )
        self._refuse_second(name)  # checking the files took a while
        left = [key for key in self._versions.tags.read(name)[0] if key.startswith(f"{PLAN}.")]
        self._versions.tags.set(name, {PLAN: text})
        self._versions.tags.delete(name, left)  # later: without its stop the rollout before would go on
        state = self._required(name)
        self._note(name, state, f"version {version} starts, by {', '.join(plan.steps)}: {why}", plan.who)
        return state

    def state(self, name: str) -> RolloutState | None:
        """The latest rollout of the model, None where it never had one. Raises RolloutError for a damaged record."""
        return read_state(*self._versions.tags.read(name))

    def order(self, name: str, action: Literal["pause", "resume"], *, why: str, who: str | None = None) -> RolloutState:
        """Let the rollout wait in its step, or go on. Guards watch a paused one, too. Raises RolloutError."""
        state = self._active(name)
        if (state.phase, action) in (("paused", "pause"), ("running", "resume"), ("baking", "pause")):
            raise RolloutError(f"the rollout of {name} is {state.phase}: there is nothing to {action}")
        self._write(
            name,
            ORDER,
            RolloutOrder(id=state.plan.id, action=action, who=who or user_name(), why=why, time=time.time()),
        )
        return self._required(name)

    def abort(self, name: str, *, why: str, who: str | None = None) -> RolloutState:
        """Give all requests back to the stable version; after a promotion the alias moves back, too. RolloutError."""
        check_reason(why)
        state, who = self._active(name), who or user_name()
        self.stop(name, state, outcome="aborted", who=who, why=why)
        self.revert(name, state, who=who, why=why)
        return self._required(name)

    def finish(self, name: str, *, why: str, who: str | None = None) -> RolloutState:
        """Promote the candidate now, whatever the guards say; they watch no longer. Raises RolloutError."""
        check_reason(why)
        state, who = self._active(name), who or user_name()
        if not state.is_promoted:
            self.promote(name, state, who=who, why=why)
        self.end(name, state, who=who, why=why)
        return self._required(name)

    def read(self, names: Collection[str]) -> RolloutViews:
        """The rollouts of these models, in one request for all where MLflow lists aliases with them."""
        states, refused, counts = {}, {}, {}
        for name, (tags, aliases) in self._versions.tags.search(PLAN).items():
            if name not in names:
                continue
            try:
                state = read_state(tags, aliases)
                if state is not None and state.live is None:
                    state = read_state(*self._versions.tags.read(name))
            except (RolloutError, RecursionError) as error:
                refused[name] = str(error)
                continue
            if state is not None:
                states[name] = state
                counts[name] = {key: text for key, text in tags.items() if key.startswith(COUNTS)}
        return RolloutViews(states, refused, counts)

    def check_candidate(self, name: str, state: RolloutState) -> None:
        """Raise NotFound where the candidate was deleted."""
        self._versions.resolve(Reference(name, version=state.plan.candidate))

    def write_progress(self, name: str, progress: Progress) -> None:
        """Of the leader."""
        for characters in SHORTER_FIGURES:  # many guards may say more than a tag holds
            checks = tuple(replace(check, figures=check.figures[:characters]) for check in progress.checks)
            shorter = replace(progress, checks=checks, waits_for=progress.waits_for[:characters])
            if len(encode(shorter)) <= MAX_RECORD:
                break
        self._write(name, PROGRESS, shorter)

    def write_counts(self, name: str, replica: str, text: str) -> None:
        """Tell the leader what this replica counted. text: of at most MAX_COUNTS characters."""
        self._versions.tags.set(name, {COUNTS + replica: text})

    def promote(self, name: str, state: RolloutState, *, who: str, why: str) -> None:
        """Move the alias to the candidate, with a line in the history that says by which rollout."""
        why = f"{why} {own_mark(state.plan)}"
        self._versions.move(name, self._move(state, "promote", state.plan.stable, state.plan.candidate, who, why))

    def revert(self, name: str, state: RolloutState, *, who: str, why: str) -> None:
        """Move the alias back to the stable version, if it was last moved by this rollout."""
        if state.serves_own:
            self._versions.move(name, self._move(state, "rollback", state.plan.candidate, state.plan.stable, who, why))

    def stop(
        self,
        name: str,
        state: RolloutState,
        *,
        outcome: Literal["failed", "aborted"],
        who: str,
        why: str,
        guard: str = "",
    ) -> RolloutState:
        """End the rollout without its candidate, which nothing can undo; mark the candidate; write the history."""
        end = End(id=state.plan.id, outcome=outcome, who=who, why=why, time=time.time(), guard=guard)
        self._write(name, STOP, end)
        self._versions.tags.mark(name, state.plan.candidate, {PLAN: f"{outcome}: {why}"})
        self._note(name, state, f"version {state.plan.candidate} {outcome} at {state.step}: {why}", who)
        return self._required(name)

    def end(self, name: str, state: RolloutState, *, who: str, why: str) -> None:
        """The candidate was promoted, and the rollout is over."""
        self._write(name, DONE, End(id=state.plan.id, outcome="promoted", who=who, why=why, time=time.time()))
        self._versions.tags.mark(name, state.plan.candidate, {PLAN: "promoted"})

    def _refuse_second(self, name: str) -> None:
        tags, aliases = self._versions.tags.read(name)
        try:
            state = read_state(tags, aliases)
        except RolloutError:  # what cannot be read has no weight, and makes room
            return
        if state is not None and state.is_active:
            plan = state.plan
            raise RolloutError(
                f"a rollout of version {plan.candidate} of {name} is {state.phase} at {state.step}, begun by "
                f"{plan.who}: finish or abort it first"
            )

    def _active(self, name: str) -> RolloutState:
        state = self.state(name)
        if state is None:
            raise RolloutError(f"{name} has no rollout: begin one with headwaiter rollout start {name} VERSION")
        if not state.is_active:
            raise RolloutError(
                f"the rollout of version {state.plan.candidate} of {name} is over: {state.phase}; begin another with "
                f"headwaiter rollout start {name} VERSION"
            )
        return state

    def _required(self, name: str) -> RolloutState:
        state = self.state(name)
        if state is None:
            raise RolloutError(f"the rollout of {name} was removed from the registry meanwhile: begin it again")
        return state

    def _write(self, name: str, key: str, record: msgspec.Struct) -> None:
        self._versions.tags.set(name, {key: encode(record)})

    def _note(self, name: str, state: RolloutState, why: str, who: str) -> None:
        """A line of the history of which no alias moved."""
        stable = state.plan.stable
        self._versions.note(name, self._move(state, "rollout", stable, stable, who, why))

    @staticmethod
    def _move(state: RolloutState, action: str, before: str, after: str, who: str, why: str) -> Move:
        return Move(
            time=time.time(),
            action=action,
            alias=state.plan.alias,
            from_version=before,
            to_version=after,
            who=who,
            why=why if len(why) <= MAX_WHY else f"{why[: MAX_WHY - 1]}…",
        )
