"""The manager's policy: a pure function from a snapshot to a list of actions.

The desired versions are declared (what the references resolve to); what is not desired, not live and not kept warm is
unloaded. A reference's live version changes only to one that is ready, so a failed load leaves the old one live. If
the old one had left so that the new one had memory, it is loaded again. A live version whose engines crash again and
again is replaced by the one that was live before it. A live version that is unloaded, as memory is short or nobody
asked for it, is loaded once it is asked for.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from registry.references import Reference
from serving.wire.version_state import State, VersionKey

CRASH_LIMIT = 3
"""After this many crashes in a row a live version is replaced by the one before it. A minute of serving resets them."""


@dataclass(frozen=True)
class Snapshot:
    """The state that the policy decides by.

    targets: what each reference resolves to in the registry, None where it does not (yet). live: the version that each
    reference serves, None before the first. previous: per reference, earlier live versions, latest first.
    states: of every version that is held. keep_previous: how many stay warm, per reference. keep_bytes: what those may
    take together, 0 for no bound; memory: bytes that each version takes. crashes: in a row, of a version's engines.
    asked: the unloaded versions that requests wait for.
    """

    targets: Mapping[Reference, str | None]
    live: Mapping[Reference, str | None]
    previous: Mapping[Reference, Sequence[str]]
    states: Mapping[VersionKey, State]
    keep_previous: int
    keep_bytes: int = 0
    memory: Mapping[VersionKey, int] = field(default_factory=dict)
    crashes: Mapping[VersionKey, int] = field(default_factory=dict)
    asked: AbstractSet[VersionKey] = frozenset()


@dataclass(frozen=True)
class Load:
    """Fetch, start and check a version."""

    name: str
    version: str


@dataclass(frozen=True)
class Publish:
    """Make a ready version the one that the reference serves."""

    reference: Reference
    version: str


@dataclass(frozen=True)
class GiveUp:
    """End a version that crashed too often; it is not tried again until the registry names another one."""

    name: str
    version: str


@dataclass(frozen=True)
class Unload:
    """Let a version finish what it has, then stop it."""

    name: str
    version: str


Action = Load | Publish | GiveUp | Unload


def decide(snapshot: Snapshot) -> list[Action]:
    """The actions that bring the snapshot nearer to the desired state; empty where they agree."""
    actions: list[Action] = []
    wanted: set[VersionKey] = set()
    for reference, target in snapshot.targets.items():
        live = snapshot.live.get(reference)
        goal = _goal(snapshot, reference)
        wanted |= {(reference.name, version) for version in (live, target, goal) if version is not None}
        wanted |= _kept(snapshot, reference, live)
        state = None if goal is None else snapshot.states.get((reference.name, goal))
        is_servable = state == "ready" or (state == "unloaded" and live is None)  # there was no room at the start
        if goal is not None and goal != live and is_servable:
            actions.append(Publish(reference, goal))
            continue
        wanted |= _failed_fallbacks(snapshot, reference, live)
        is_asked = (reference.name, goal) in snapshot.asked or live not in (None, goal)
        # The live version, too: it may have left so that another one had room.
        if goal is not None and (state is None or (state == "unloaded" and is_asked)):
            actions.append(Load(reference.name, goal))
        elif state == "failed" and live not in (None, goal) and (reference.name, live) not in snapshot.states:
            actions.append(Load(reference.name, str(live)))  # it left so that the goal had room
    actions += _given_up(snapshot, [action for action in actions if isinstance(action, Publish)])
    actions += [Unload(*key) for key in snapshot.states if key not in wanted]
    return list(dict.fromkeys(actions))


def _goal(snapshot: Snapshot, reference: Reference) -> str | None:
    """The version that the reference should serve: the registry's, or an earlier one instead of one that crashes."""
    live = snapshot.live.get(reference)
    goal = snapshot.targets[reference] or live
    if goal is None or goal != live or not _is_crashing(snapshot, reference, goal):
        return goal
    others = [other for other in snapshot.targets if other.name == reference.name and snapshot.live.get(other) == goal]
    if all(_fallback(snapshot, other) for other in others):
        return _fallback(snapshot, reference)
    return goal


def _given_up(snapshot: Snapshot, published: Sequence[Publish]) -> list[Action]:
    """The crashing versions that published ones replace, unless another reference still serves them."""
    lives = {**snapshot.live, **{action.reference: action.version for action in published}}
    served = {(reference.name, live) for reference, live in lives.items() if reference in snapshot.targets}
    replaced = [(action.reference, snapshot.live.get(action.reference)) for action in published]
    return [
        GiveUp(reference.name, live)
        for reference, live in replaced
        if live is not None and (reference.name, live) not in served and _is_crashing(snapshot, reference, live)
    ]


def _is_crashing(snapshot: Snapshot, reference: Reference, version: str) -> bool:
    key = (reference.name, version)
    return snapshot.states.get(key) == "failed" or snapshot.crashes.get(key, 0) >= CRASH_LIMIT


def _fallback(snapshot: Snapshot, reference: Reference) -> str | None:
    live = snapshot.live.get(reference)
    return next(
        (
            version
            for version in snapshot.previous.get(reference, ())
            if version != live and not _is_crashing(snapshot, reference, version)
        ),
        None,
    )


def _failed_fallbacks(snapshot: Snapshot, reference: Reference, live: str | None) -> set[VersionKey]:
    """While the live version crashes: the earlier ones that failed. Forgotten, they would be tried again at once."""
    if live is None or not _is_crashing(snapshot, reference, live):
        return set()
    earlier = {(reference.name, version) for version in snapshot.previous.get(reference, ())}
    return {key for key in earlier if snapshot.states.get(key) == "failed"}


def _kept(snapshot: Snapshot, reference: Reference, live: str | None) -> set[VersionKey]:
    """The earlier versions that stay warm: the latest ones, within count and memory, and none that failed."""
    kept: set[VersionKey] = set()
    room = snapshot.keep_bytes or float("inf")
    earlier = [version for version in snapshot.previous.get(reference, ()) if version != live]
    for version in earlier[: snapshot.keep_previous]:
        key = (reference.name, version)
        room -= snapshot.memory.get(key, 0)
        if room < 0:
            break
        if snapshot.states.get(key) not in ("failed", "unloaded"):
            kept.add(key)
    return kept
