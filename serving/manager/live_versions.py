"""The version that each reference serves, those that it served before, and the swaps between them."""

import logging
import time
from collections import defaultdict, deque
from contextlib import suppress

from registry.references import Reference, ResolvedVersion
from serving.manager.last_live import LastLive
from serving.manager.managed_version import ManagedVersion
from serving.manager.meter import count_swap, time_swap
from serving.manager.registry_poll import RegistrySnapshot
from serving.wire.demand import DemandReader
from serving.wire.routing_table import ModelEntry, RolloutEntry, Swap, SwapOutcome, Table, VersionEntry
from serving.wire.version_state import VersionKey

logger = logging.getLogger("headwaiter.manager")

SHOWN_SWAPS = 20
"""Of each model, so that one that fails again and again hides no other's."""


class LiveVersions:
    """live: the version that each reference serves. previous: those that it served before, latest first."""

    def __init__(self, last_live: LastLive) -> None:
        self._last_live = last_live
        self._swaps: dict[str, deque[Swap]] = defaultdict(lambda: deque(maxlen=SHOWN_SWAPS))
        self._used: dict[Reference, float] = {}
        self.live: dict[Reference, str | None] = {}
        self.previous: dict[Reference, list[str]] = {}

    def adopt(self, left: Table, held: dict[VersionKey, ManagedVersion]) -> None:
        """Take over what another manager's table says, as far as a version is still held or had left on purpose."""
        for name, entry in left.models.items():
            for text, version in entry.serves.items():
                reference = Reference.parse(text)
                known = entry.versions.get(version or "")
                has_left = known is None or known.state != "ready"  # so that another one has memory
                if version is not None and ((reference.name, version) in held or has_left):
                    self.live[reference] = version
                self.previous[reference] = list(entry.previous.get(text, []))
            self._swaps[name].extend(entry.swaps)

    def live_keys(self) -> set[VersionKey]:
        """The versions that some reference serves."""
        return {(reference.name, version) for reference, version in self.live.items() if version is not None}

    def is_live(self, key: VersionKey) -> bool:
        """Whether some reference serves the version."""
        return key in self.live_keys()

    def has(self, name: str) -> bool:
        """Whether a version of the model is live."""
        return any(name == model for model, _ in self.live_keys())

    def note_use(self, demand: DemandReader) -> None:
        """Keep on disk which versions were asked for: the next start loads these first."""
        for reference, version in self.live.items():
            at = demand.asked_at((reference.name, version)) if version is not None else 0.0
            if at > self._used.get(reference, 0.0):
                self._used[reference] = at
                with suppress(OSError):  # as below
                    self._last_live.touch(reference)

    def is_serving(self) -> bool:
        """Whether something is live, which loading may not starve."""
        return any(self.live.values())

    def forget_all_but(self, view: RegistrySnapshot) -> None:
        """Drop the references that are not served any more.

        Where another alias of the model is served instead, that one starts with what this one served: the model goes on
        answering while its new version loads.
        """
        for gone in self.live.keys() - view.targets.keys():
            version = self.live.pop(gone)
            for heir in view.targets:
                if heir.name == gone.name and heir.alias and gone.alias and self.live.get(heir) is None:
                    self.live[heir] = version

    def publish(self, reference: Reference, held: ManagedVersion, view: RegistrySnapshot, now: float) -> None:
        """The reference serves this version from now on."""
        before, version = self.live.get(reference), held.version
        self.live[reference] = version
        if before is not None:
            earlier = [old for old in self.previous.get(reference, ()) if old not in (before, version)]
            self.previous[reference] = [before, *earlier]
        target = view.targets.get(reference)
        gave_way = target is not None and target.version != version
        error = f"version {before} crashed again and again" if gave_way else ""
        moved = view.moved.get(reference, now)
        seconds = max(0.0, now - moved)
        self._record(reference, before, version, "crashed" if gave_way else "success", seconds, error)
        if held.state == "ready":
            time_swap(reference.name, seconds, is_warm=held.began < moved)
        logger.info("%s is served by version %s, before: %s", reference, version, before)
        if not gave_way:
            self._remember(reference, held, view)

    def note_loaded(self, held: ManagedVersion, view: RegistrySnapshot) -> None:
        """The version has loaded, and may have been live before it did."""
        for reference, version in self.live.items():
            if (reference.name, version) == (held.name, held.version):
                self._remember(reference, held, view)

    def fail(self, held: ManagedVersion, view: RegistrySnapshot, now: float) -> None:
        """The version could not be loaded; everything that wanted it stays where it is."""
        for reference, target in view.targets.items():
            if target is not None and (target.name, target.version) == (held.name, held.version):
                seconds = max(0.0, now - view.moved.get(reference, now))
                self._record(reference, self.live.get(reference), held.version, "failure", seconds, held.error)

    def describe(
        self,
        name: str,
        view: RegistrySnapshot,
        versions: dict[str, VersionEntry],
        rollout: RolloutEntry | None = None,
    ) -> ModelEntry:
        """The model's part of the table."""
        references = [reference for reference in view.targets if reference.name == name]
        problems = [view.problems[reference] for reference in references if reference in view.problems]
        return ModelEntry(
            live=self.live.get(references[0]) if references else None,
            aliases={reference.alias: self.live.get(reference) for reference in references if reference.alias},
            versions=versions,
            serves={str(reference): self.live.get(reference) for reference in references},
            previous={str(key): list(self.previous[key]) for key in references if key in self.previous},
            swaps=tuple(self._swaps.get(name, ())),
            error="; ".join(problem for problem in (view.refused.get(name), *problems) if problem),
            rollout=rollout,
        )

    def _remember(self, reference: Reference, held: ManagedVersion, view: RegistrySnapshot) -> None:
        target = view.targets.get(reference)
        if target is None or target.version != held.version or held.contract is None:
            return
        known = ResolvedVersion(target.name, held.version, target.source, held.contract.digest)
        with suppress(OSError):  # a full disk must not stop a swap
            self._last_live.remember(reference, known)
            self._last_live.remember(Reference(reference.name, version=held.version), known)

    def _record(
        self, reference: Reference, before: str | None, to: str, outcome: SwapOutcome, seconds: float, error: str
    ) -> None:
        swap = Swap(
            time=round(time.time(), 3),
            reference=str(reference),
            from_version=before,
            to_version=to,
            outcome=outcome,
            seconds=round(seconds, 3),
            error=error,
        )
        self._swaps[reference.name].append(swap)
        count_swap(reference.name, outcome)
