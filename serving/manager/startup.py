"""Whether the server has started: each reference that was wanted at the start is live, or has failed for good.

What is deployed later, and what happens to a model that was live, change nothing any more: each model has a readiness
of its own, see `serving.front.routing`.
"""

from collections.abc import Callable, Mapping

from registry.references import Reference
from serving.manager.registry_poll import RegistrySnapshot


class Startup:
    """Latches once the server has started. needs_live: whether it has not started while nothing is live.

    patience_seconds: how long a reference is waited for to which the registry gives no answer, while it answers others.
    """

    def __init__(self, *, needs_live: bool, patience_seconds: float) -> None:
        self.is_over = False
        self._patience_seconds = patience_seconds
        self._needs_live = needs_live
        self._wanted: frozenset[Reference] | None = None

    def look(
        self,
        view: RegistrySnapshot,
        live: Mapping[Reference, str | None],
        has_failed: Callable[[Reference], bool],
        now: float,
    ) -> bool:
        """Whether it has started by now. has_failed: whether the version that a reference names failed for good.

        A reference that names nothing counts as failed if the registry says so, and not while it cannot be read.
        now: in monotonic seconds.
        """
        if self.is_over or not view.is_known:
            return self.is_over
        if self._wanted is None and (view.targets or not view.error):
            self._wanted = frozenset(view.targets)
        if self._wanted is None or (self._needs_live and not any(live.values())):
            return False
        self.is_over = all(
            live.get(reference) is not None
            or reference not in view.targets
            or (view.targets[reference] is None and self._is_nameless(reference, view, now))
            or has_failed(reference)
            for reference in self._wanted
        )
        return self.is_over

    def _is_nameless(self, reference: Reference, view: RegistrySnapshot, now: float) -> bool:
        if reference in view.unanswered:
            return now - view.moved.get(reference, now) > self._patience_seconds
        return reference in view.problems
