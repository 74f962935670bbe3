"""The state of a rollout: some tags of the registered model, each with one kind of writer, and what follows from them.

MLflow has no compare-and-set (3.17), so no tag is changed by two kinds of writers, and what stops a rollout is a tag
that nobody removes. Writers that know nothing of one another can so neither undo a stop nor lose a pause.

headwaiter.rollout            the plan; written once, by `start`
headwaiter.rollout.order      pause or resume; written by people
headwaiter.rollout.progress   the step and the leader's lease; written by the leading manager
headwaiter.rollout.stop       the candidate failed, or somebody aborted: its weight is 0 whatever else is written
headwaiter.rollout.done       the candidate was promoted and the rollout is over
headwaiter.rollout.counts.*   what each replica counted, for the leader

All but the plan name the rollout by its id, and count for no other.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec

from registry.errors import HistoryError, RolloutError
from registry.history import read_moves
from registry.rollout.guards import Guard
from registry.rollout.plan import FORMAT, Plan, Step

PLAN = "headwaiter.rollout"
ORDER, PROGRESS, STOP, DONE = (f"{PLAN}.{part}" for part in ("order", "progress", "stop", "done"))
COUNTS = f"{PLAN}.counts."

Verdict = Literal["pass", "fail", "inconclusive"]
RolloutPhase = Literal["running", "paused", "promoting", "baking", "promoted", "failed", "aborted", "overruled"]
"""promoting: the alias names the candidate, and no record says yet by whom; where that stays so, it was a hand. baking:
promoted, and guards still watch. overruled: somebody moved the alias by hand, which ends the rollout."""
ACTIVE: frozenset[RolloutPhase] = frozenset({"running", "paused", "baking"})

MAX_STEP = 999
"""The largest index of a step in a record: far above `MAX_STEPS`, as another release may allow more."""
MAX_BEAT = 1 << 53
"""The largest beat of a leader, after which it begins again at 1."""
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]


class RolloutOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants of a running rollout."""

    id: str
    action: Literal["pause", "resume"]
    who: str
    why: str
    time: float


class End(msgspec.Struct, frozen=True, kw_only=True):
    """Why a rollout is over. guard: the one that failed, with its figures; "" where a person ended it."""

    id: str
    outcome: Literal["failed", "aborted", "promoted"]
    who: str
    why: str
    time: float
    guard: str = ""


class Check(msgspec.Struct, frozen=True):
    """What a guard said last. figures: both sides' numbers and what is waited for, in words."""

    guard: str
    verdict: Verdict
    figures: str


class Bounds(msgspec.Struct, frozen=True, array_like=True):
    """What a figure lies between: surely enough to fail a guard by it, and surely enough to pass one."""

    fail: tuple[float, float]
    passing: tuple[float, float]


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a rollout is. step: index of the plan's steps. elapsed_seconds: in it, by the clocks of its leaders,
    while the candidate could answer; waited_seconds: all of them but pauses.

    holder: the replica that leads; beat: changes while it lives. checks: the guards of this step. stable: per guard,
    the bounds of the stable version's figure as they were last, for the time when it answers no more requests.
    waits_for: in words. has_shadows: whether enough requests were compared in a step of shadows, so that it needs no
    more.
    """

    id: str
    step: Annotated[int, msgspec.Meta(ge=0, le=MAX_STEP)] = 0
    elapsed_seconds: Seconds = 0.0
    waited_seconds: Seconds = 0.0
    holder: str = ""
    beat: Annotated[int, msgspec.Meta(ge=0, le=MAX_BEAT)] = 0
    checks: tuple[Check, ...] = ()
    stable: dict[str, Bounds] = {}
    waits_for: str = ""
    has_shadows: bool = False


AnyRecord = TypeVar("AnyRecord", RolloutOrder, End, Progress)


class RolloutState(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as the tags describe it. live: the version that the alias names now, None where it names none.

    is_promoted: whether the history has this rollout's promotion; serves_own: whether that was the alias' last move.
    is_recorded: whether the last move in the history is the one to `live`; the alias is moved before that is written.
    """

    plan: Plan
    steps: tuple[Step, ...]
    live: str | None
    is_promoted: bool
    serves_own: bool
    is_recorded: bool
    progress: Progress
    order: RolloutOrder | None = None
    stop: End | None = None
    done: End | None = None

    @property
    def phase(self) -> RolloutPhase:
        """Where the rollout stands. A stop comes before everything, then the end, then a hand that moved the alias."""
        if self.stop is not None:
            return "failed" if self.stop.outcome == "failed" else "aborted"
        if self.done is not None:
            return "promoted"
        if self.is_promoted:
            return "baking" if self.serves_own else "overruled"
        if self.live != self.plan.stable:
            return "promoting" if self.live == self.plan.candidate and not self.is_recorded else "overruled"
        return "paused" if self.order is not None and self.order.action == "pause" else "running"

    @property
    def is_active(self) -> bool:
        """Whether the rollout is not over."""
        return self.phase in ACTIVE

    @property
    def step(self) -> Step:
        """The current step; the last one where a record says more than there are."""
        return self.steps[min(self.progress.step, len(self.steps) - 1)]

    @property
    def weight(self) -> float:
        """The share of requests in 0..1 that the candidate is to answer now."""
        return self.step.weight if self.is_active else 0.0

    @property
    def is_shadowing(self) -> bool:
        """Whether requests of the stable version are to be answered by the candidate, too, to be compared."""
        return bool(self.step.shadows) and not self.progress.has_shadows and self.phase in ("running", "paused")


def read_state(tags: Mapping[str, str], aliases: Mapping[str, str]) -> RolloutState | None:
    """The rollout in a registered model's tags, None where there is none. Raises RolloutError for one that is damaged.

    Without one of its parts a rollout would begin anew, or go on after a stop.
    """
    if PLAN not in tags:
        return None
    plan = _read_plan(tags[PLAN])
    live = aliases.get(plan.alias)
    try:
        moves = read_moves(tags, plan.alias)
    except HistoryError as error:
        raise RolloutError(f"whether the rollout has ended cannot be seen: {error}") from error
    made = [move for move in moves if move.action != "rollout"]
    own = [own_mark(plan) in move.why for move in made]
    return RolloutState(
        plan=plan,
        steps=plan.parsed_steps(),
        live=live,
        is_promoted=any(own),
        serves_own=live == plan.candidate and own[-1:] == [True],
        is_recorded=bool(made) and made[-1].to_version == live,
        progress=_read_progress(tags, plan.id),
        order=_read(tags, ORDER, RolloutOrder, plan.id),
        stop=_read(tags, STOP, End, plan.id),
        done=_read(tags, DONE, End, plan.id),
    )


def _read_plan(text: str) -> Plan:
    try:
        found = msgspec.json.decode(text)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            what = found.get("format") if isinstance(found, dict) else None
            raise RolloutError(
                f"the rollout has format {what!r}, this release reads format {FORMAT}: "
                "abort it with the release that began it, or start another one"
            )
        plan = msgspec.convert(found, Plan)
        plan.parsed_guards()
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RolloutError(f"the record of the rollout is damaged ({error}): start another one") from error
    return plan


def _read_progress(tags: Mapping[str, str], rollout: str) -> Progress:
    """The progress of this rollout, the beginning where there is no record of it."""
    progress = _read(tags, PROGRESS, Progress, rollout) or Progress(id=rollout)
    try:
        for check in progress.checks:
            Guard.parse(check.guard)
    except RolloutError as error:
        raise _damage(PROGRESS, error) from error
    return progress


def _read(tags: Mapping[str, str], key: str, kind: type[AnyRecord], rollout: str) -> AnyRecord | None:
    """The record of a tag where it is of this rollout."""
    if key not in tags:
        return None
    try:
        record = msgspec.json.decode(tags[key], type=kind)
    except msgspec.DecodeError as error:
        raise _damage(key, error) from error
    return record if record.id == rollout else None


def _damage(key: str, error: Exception) -> RolloutError:
    return RolloutError(
        f"the tag {key} is damaged ({error}), and the candidate gets no requests: start another rollout"
    )


def own_mark(plan: Plan) -> str:
    """What the history says of a move that was this rollout's own."""
    return f"(rollout {plan.id})"


def encode(record: msgspec.Struct) -> str:
    """A record as a tag's value. Raises RolloutError for one that could not be read again, as JSON has no infinity."""
    text = msgspec.json.encode(record)
    try:
        msgspec.json.decode(text, type=type(record))
    except msgspec.ValidationError as error:
        raise RolloutError(f"a record of the rollout could not be read again ({error}): it is not written") from error
    return text.decode()
