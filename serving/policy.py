"""What the manager does next: a pure function from what is to a list of actions.

The desired versions are declared (what the references resolve to); what is not desired, not live and not kept warm is
unloaded. A reference's live version changes only to one that is ready, so a failed load leaves the old one live.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.references import Reference

VersionKey = tuple[str, str]
"""(model, version)"""


@dataclass(frozen=True)
class Snapshot:
    """What the manager knows.

    targets: what each reference resolves to in the registry, None where it does not (yet). live: the version that each
    reference serves, None before the first. previous: per reference, earlier live versions, latest first.
    states: of every version that is held, "loading", "ready" or "failed". keep_previous: how many stay warm.
    """

    targets: Mapping[Reference, str | None]
    live: Mapping[Reference, str | None]
    previous: Mapping[Reference, Sequence[str]]
    states: Mapping[VersionKey, str]
    keep_previous: int


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
class Unload:
    """Let a version finish what it has, then stop it."""

    name: str
    version: str


Action = Load | Publish | Unload


def decide(snapshot: Snapshot) -> list[Action]:
    """The actions that bring what is nearer to what is wanted; empty when there is nothing to do."""
    actions: list[Action] = []
    wanted: set[VersionKey] = set()
    for reference, target in snapshot.targets.items():
        live = snapshot.live.get(reference)
        if live is not None:
            wanted.add((reference.name, live))
        if target is None or target == live:
            wanted |= _kept(snapshot, reference, live)
            continue
        wanted.add((reference.name, target))
        state = snapshot.states.get((reference.name, target))
        if state is None:
            actions.append(Load(reference.name, target))
        elif state == "ready":
            actions.append(Publish(reference, target))
        wanted |= _kept(snapshot, reference, live)
    actions += [Unload(*key) for key in snapshot.states if key not in wanted]
    return list(dict.fromkeys(actions))


def _kept(snapshot: Snapshot, reference: Reference, live: str | None) -> set[VersionKey]:
    earlier = [version for version in snapshot.previous.get(reference, ()) if version != live]
    return {(reference.name, version) for version in earlier[: snapshot.keep_previous]}
