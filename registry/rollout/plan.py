"""The plan of a rollout: its steps, as a user writes them, and the record that `start` writes and nobody changes."""

import re
import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import msgspec

from registry.errors import RolloutError
from registry.patterns import VERSION, whole
from registry.rollout.guards import Guard, parse_guards

FORMAT = 1
STEPS = ("shadow:200", "1%", "10%", "50%", "100%")
EVERY = "10m"
BAKE = "10m"
GUARDS = ("errors < stable + 1%", "p99 < 1.5 × stable", "compute < 2 × stable", "agreement > 90%")
MAX_STEPS = 20
MAX_SHADOWS = 1_000_000
MAX_SECONDS = 7 * 86400.0

VersionNumber = Annotated[str, msgspec.Meta(pattern=whole(VERSION))]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHADOW = re.compile(r"shadow:([0-9]{1,9})")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?) ?%")


class Step(msgspec.Struct, frozen=True):
    """One step: either shadows to compare, or the candidate's share of requests in 0..1. weight: 0 of shadows."""

    weight: float = 0.0
    shadows: int = 0

    @classmethod
    def parse(cls, text: str) -> "Step":
        """Read `shadow:COUNT` or `SHARE%`. Raises RolloutError."""
        shadow, share = _SHADOW.fullmatch(text), _SHARE.fullmatch(text)
        if shadow is not None and 1 <= int(shadow[1]) <= MAX_SHADOWS:
            return cls(shadows=int(shadow[1]))
        if shadow is not None:
            raise RolloutError(f"step {text!r} compares {int(shadow[1]):,} requests: give 1 to {MAX_SHADOWS:,}")
        if share is not None and 0.0 < float(share[1]) <= 100.0:
            return cls(weight=float(share[1]) / 100)
        if share is not None:
            raise RolloutError(f"step {text!r} is no share: give more than 0% and at most 100%")
        raise RolloutError(
            f"step {text[:100]!r} cannot be read: write shadow:COUNT as 'shadow:200', or SHARE% as '10%'"
        )

    @property
    def is_last(self) -> bool:
        """Whether the candidate is promoted in it."""
        return self.weight == 1.0

    def __str__(self) -> str:
        return f"shadow:{self.shadows}" if self.shadows else f"{100 * self.weight:g}%"


def parse_steps(texts: Sequence[str]) -> tuple[Step, ...]:
    """Read steps. Raises RolloutError unless shadows come first, then growing shares, then 100 %."""
    steps = tuple(Step.parse(text.strip()) for text in texts)
    if not 1 <= len(steps) <= MAX_STEPS:
        raise RolloutError(
            f"a rollout has 1 to {MAX_STEPS} steps, these are {len(steps)}: give between 1 and {MAX_STEPS}"
        )
    if not steps[-1].is_last:
        raise RolloutError(f"the last step is {steps[-1]}: end with 100%, which promotes the candidate")
    if not any(0.0 < step.weight < 1.0 for step in steps):
        raise RolloutError(
            "no step lets both versions answer clients, by which guards compare them: add shares below 100%, as "
            "1%,10%,100%"
        )
    for before, step in pairwise(steps):
        if step.shadows:
            raise RolloutError(
                f"step {step} comes after {before}: a rollout has at most one shadow step, and it is the first; put it "
                "first or leave it out"
            )
        if step.weight <= before.weight:
            raise RolloutError(f"step {step} comes after {before}: the shares must grow")
    return steps


def parse_duration(text: str, *, min_seconds: float = 0.0) -> float:
    """Seconds of a text such as `90s`, `10m`, `1.5h`, `1d`. Raises RolloutError; also below `min_seconds`."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([smhd])", text.strip())
    if found is None:
        raise RolloutError(f"{text[:100]!r} is no time: write a number and s, m, h or d, as '10m'")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not min_seconds <= seconds <= MAX_SECONDS:
        raise RolloutError(f"{text!r} is {seconds:g} s: give {min_seconds:g} s to 7d")
    return seconds


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a rollout. id: of this one among all of the model. alias: that the candidate is to get.

    steps, guards: as users write them, so that MLflow's pages show them. every_seconds: how long each step takes at
    least. bake_seconds: how long guards go on after the promotion. salt: of the hash by which keys choose their side.
    time: seconds since the epoch, for display only: no decision depends on it.
    """

    id: Annotated[str, msgspec.Meta(pattern=whole("[0-9a-f]{8}"))]  # a part of paths
    alias: str
    stable: VersionNumber
    candidate: VersionNumber
    steps: tuple[str, ...]
    every_seconds: float
    bake_seconds: float
    guards: tuple[str, ...]
    salt: str
    who: str
    why: str
    time: float
    format: int = FORMAT

    def parsed_steps(self) -> tuple[Step, ...]:
        """The steps. Raises RolloutError for a record of another release."""
        return parse_steps(self.steps)

    def parsed_guards(self) -> tuple[Guard, ...]:
        """The guards. Raises RolloutError for a record of another release."""
        return parse_guards(self.guards)


def make_plan(
    *,
    alias: str,
    stable: str,
    candidate: str,
    who: str,
    why: str,
    now: float,
    steps: Sequence[str] = STEPS,
    every: str = EVERY,
    bake: str = BAKE,
    guards: Sequence[str] = GUARDS,
) -> Plan:
    """A new plan, with its texts in their plain form. Raises RolloutError where something cannot be read or met.

    The default guards leave those out that the steps do not measure; guards that are given are refused then.
    """
    parsed = parse_steps(steps)
    wanted = parse_guards(tuple(guards))
    if not parsed[0].shadows:
        if tuple(guards) == GUARDS:
            wanted = tuple(guard for guard in wanted if not guard.needs_shadow)
        missing = next((guard for guard in wanted if guard.needs_shadow), None)
        if missing is not None:
            raise RolloutError(f"guard {missing} is measured by shadows: begin the steps with one, as shadow:200")
    if candidate == stable:
        raise RolloutError(f"version {candidate} is what {alias} names already: choose another version")
    plan = Plan(
        id=secrets.token_hex(4),
        alias=alias,
        stable=stable,
        candidate=candidate,
        steps=tuple(map(str, parsed)),
        every_seconds=parse_duration(every, min_seconds=1.0),
        bake_seconds=parse_duration(bake),
        guards=tuple(map(str, wanted)),
        salt=secrets.token_hex(8),
        who=who,
        why=why,
        time=now,
    )
    if plan.parsed_steps() != parsed or plan.parsed_guards() != wanted:  # else a server refuses the record
        raise RolloutError(
            f"steps {', '.join(plan.steps)} or guards {'; '.join(plan.guards)} are not what was given: give numbers "
            "with fewer digits"
        )
    return plan
