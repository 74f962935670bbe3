"""Follows the rollouts of the served models, and tells the manager what to load and how to share requests out.

The registry is read, and rollouts are led, by `cycle`, in a thread of its own. A cycle fails as a whole: then
everything stays as it is until the next one. A cycle that hangs is given up, and the next one has a connection and a
thread of its own. Should it go on once the registry answers, it is as a second leader, which does no harm.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future

from monitoring.metrics import VERDICTS
from registry.redaction import describe_error
from registry.references import Reference
from registry.rollout.control import Rollouts, RolloutViews
from registry.rollout.guards import Guard
from registry.rollout.state import RolloutState
from serving.manager.registry_poll import MakePool
from serving.manager.registry_watch import GIVE_UP_SECONDS, MAX_GIVEN_UP, NUDGED_SECONDS, connect_client
from serving.manager.rollout.annotations import Annotator
from serving.manager.rollout.cycle import Cycle, VersionStates
from serving.runtime.backoff import jittered
from serving.runtime.daemon_pool import DaemonPool
from serving.settings import ServingSettings
from serving.wire.routing_table import ModelEntry, RolloutEntry

IDLE_POLLS = 5
"""Polls between two reads of a model's rollout while none is under way. Untuned: a rollout takes minutes, and every
replica sends the request (docs/fleet.md)."""
WAITING_STEP_SECONDS = 60.0
"""The resolution of `waiting_seconds`: the routing table, in which it is, changes no more often for it."""

logger = logging.getLogger("headwaiter.rollout")


class RolloutKeeper:
    """view: the rollouts as last read. `step` never blocks; everything else is of the manager's thread, too."""

    def __init__(
        self,
        settings: ServingSettings,
        wake: Callable[[], object],
        connect: Callable[[], Rollouts] | None = None,
        *,
        make_pool: MakePool = DaemonPool,
        spread: Callable[[float], float] = jittered,
    ) -> None:
        """wake: called when an answer has come, in any thread. connect: makes the registry's client, in the thread.

        spread: of a pause, so that replicas do not ask at the same time.
        """
        self.view = RolloutViews()
        self._settings = settings
        self._wake = wake
        self._connect = connect or (lambda: Rollouts(connect_client(settings.registry)))
        self._spread = spread
        self._make_pool = make_pool
        self._pool = self._open()
        self._given_up: list[Future[RolloutViews]] = []
        """Cycles that hang."""
        self._cycle_of: list[Cycle] = []
        """The cycle of the connection, once it is made. A connection that is given up keeps its own list."""
        self._running: Future[RolloutViews] | None = None
        self._asked, self._factor = -math.inf, 1.0
        self._again = False
        self._trouble = ""
        self._left: Mapping[str, RolloutEntry] | None = {}
        """What the manager before has left, until the registry was read."""

    def adopt(self, models: Mapping[str, ModelEntry]) -> None:
        """Go on with the rollouts of a manager that was killed, until the registry was read."""
        self._left = {name: model.rollout for name, model in models.items() if model.rollout is not None}

    def step(self, now: float, names: Collection[str], states: VersionStates, *, at_once: bool = False) -> None:
        """Take the answer of a cycle that has ended, and begin the next one if it is time to, or `at_once`.

        Calls with `at_once` that come close together, or while a cycle runs, are one, as of `RegistryWatch.step`.
        """
        if self._running is not None:
            if not self._running.done():
                self._again |= at_once
                if now - self._asked <= GIVE_UP_SECONDS or not self._give_up(self._running):
                    return
            else:
                self._take(self._running)
            self._running = None
        self._again |= at_once
        is_nudged = self._again and now - self._asked >= NUDGED_SECONDS
        if now >= self._asked + self._factor * self._pause_seconds() or is_nudged:
            self._asked, self._factor, self._again = now, self._spread(1.0), False
            self._running = self._pool.submit(self._cycle, self._cycle_of, frozenset(names), dict(states), now)
            self._running.add_done_callback(lambda _: self._wake())

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
            verdicts=_verdicts(state),
            waiting_seconds=_waiting_seconds(state),
            phase=state.phase,
            steps=state.plan.steps,
        )

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> Executor:
        return self._make_pool(1, "headwaiter-rollouts")

    def _give_up(self, running: Future[RolloutViews]) -> bool:
        """Leave a cycle to its thread, and open another one; False where too many are left already."""
        self._given_up = [each for each in self._given_up if not each.done()]
        if len(self._given_up) >= MAX_GIVEN_UP:
            return False
        logger.warning("a request to the registry hangs and is given up; the next cycle has a new connection")
        self._given_up.append(running)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool, self._cycle_of = self._open(), []
        return True

    def _pause_seconds(self) -> float:
        """Between the begins of two cycles."""
        is_idle = self._left is None and not any(state.is_active for state in self.view.states.values())
        return self._settings.poll_seconds * (IDLE_POLLS if is_idle else 1)

    def _take(self, ended: Future[RolloutViews]) -> None:
        try:
            self.view = ended.result()
            self._trouble, self._left = "", None
        except Exception as error:  # the registry may fail in any way; weights stay as they are
            told = describe_error(error)
            if told != self._trouble:
                logger.warning("rollouts stay as they are, the registry cannot be read or written: %s", told)
            self._trouble = told

    def _cycle(self, made: list[Cycle], names: Collection[str], states: VersionStates, now: float) -> RolloutViews:
        if not made:
            cycle = Cycle(
                self._settings.run,
                self._connect(),
                prometheus_url=self._settings.prometheus_url,
                annotator=Annotator(self._settings.grafana_url, self._settings.grafana_token),
            )
            made.append(cycle)
        return made[0].run(names, states, now)


def _verdicts(state: RolloutState) -> dict[str, int]:
    """Metric of a guard → what it says; of several queries the worst."""
    found: dict[str, int] = {}
    for check in state.progress.checks:
        metric, verdict = Guard.parse(check.guard).metric, VERDICTS[check.verdict]
        found[metric] = min(verdict, found.get(metric, verdict))
    return found


def _waiting_seconds(state: RolloutState) -> float:
    planned = state.plan.bake_seconds if state.phase == "baking" else state.plan.every_seconds
    late = max(0.0, state.progress.waited_seconds - planned)
    return late // WAITING_STEP_SECONDS * WAITING_STEP_SECONDS
