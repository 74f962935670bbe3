"""Polls the registry: resolves every reference again and again, outside of the manager's thread.

A reference that cannot be read keeps its last answer, so serving goes on. If no reference gets an answer the trouble is
the registry's, which is then polled with growing pauses. `registry_poll` asks. A poll that hangs is given up, and the
next one has a connection and threads of its own.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from registry.imports import import_client
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.manager.registry_poll import SLOW_SECONDS, MakePool, RegistryPoll, RegistrySnapshot
from serving.runtime.backoff import backoff_seconds, jittered
from serving.runtime.daemon_pool import DaemonPool
from serving.settings import ServingSettings

logger = logging.getLogger("headwaiter.manager")

MAX_PAUSE_SECONDS = 30.0
"""Longest pause between two polls of a failing registry."""
NUDGED_SECONDS = 0.25
"""Least time between two polls that nudges cause, unless the poll interval is shorter."""
GIVE_UP_SECONDS = 60.0
"""A poll or a reference that has not been answered for this long is given up. Untuned: more than twice what MLflow's
client waits for with the timeout and the retries that the manager sets."""
MAX_GIVEN_UP = 4
"""Connections whose threads may hang at a time: then the last one is waited for without limit. Untuned."""


class RegistryWatch:
    """Polls the registry; `view` is the latest answer, replaced as a whole. `step` never blocks."""

    def __init__(
        self,
        settings: ServingSettings,
        wake: Callable[[], object],
        connect: Callable[[], Versions] | None = None,
        *,
        make_pool: MakePool = DaemonPool,
        spread: Callable[[float], float] = jittered,
    ) -> None:
        """wake: called when an answer has come, in any thread. connect: makes the registry's client, at the first poll
        of a connection. spread: of a pause, so that replicas do not poll at the same time.
        """
        self._settings = settings
        self._wake = wake
        self._connect = connect or partial(connect_client, settings.registry)
        self._make_pool = make_pool
        self._spread = spread
        self._poll = self._open()
        self._given_up: list[RegistryPoll] = []
        self._polling: Future[RegistrySnapshot] | None = None
        self._asked = 0.0
        self._next = 0.0
        self._failures = 0
        self._again = False
        self._also: tuple[Reference, ...] = ()
        self.view = RegistrySnapshot(dict.fromkeys(settings.models))

    def step(self, now: float, *, at_once: bool = False) -> None:
        """Take an answer that has come; ask if it is time to, or `at_once`.

        Calls with `at_once` that come close together, or while an answer is on its way, are one: the registry is asked
        once more, and after all of them.
        """
        self._again |= at_once
        if self._polling is not None:
            if not self._polling.done():
                if now - self._asked > max(SLOW_SECONDS, 2 * self._settings.poll_seconds) and not self.view.error:
                    self._take(replace(self.view, error=f"no answer for {now - self._asked:.0f} s"))
                if now - self._asked <= GIVE_UP_SECONDS or not self._give_up():
                    return
                self._plan(now, has_failed=True)
            else:
                polled, self._polling = self._polling, None
                self._take(polled.result())
                self._plan(self._asked, has_failed=bool(self.view.error))
                if self._poll.oldest_seconds() > GIVE_UP_SECONDS:
                    self._give_up()
        if now >= self._next or (self._again and now - self._asked >= NUDGED_SECONDS):
            self._asked, self._again = now, False
            self._polling = self._poll.begin(self.view, self._also)
            self._polling.add_done_callback(lambda _: self._wake())

    def idle_seconds(self, now: float) -> float:
        """How long `step` has nothing to do, unless an answer comes."""
        return MAX_PAUSE_SECONDS if self._polling is not None else max(0.0, self._next - now)

    def expect(self, references: Iterable[Reference]) -> None:
        """Before the first answer: these are served already."""
        self.view = RegistrySnapshot(dict.fromkeys((*self._settings.models, *references)))

    def serve_also(self, references: tuple[Reference, ...]) -> None:
        """Beside those that were named or are deployed. Others than before are asked for at once."""
        self._again |= references != self._also
        self._also = references

    def close(self) -> None:
        """Stop polling."""
        self._poll.close()

    def _open(self, late: Iterable[Reference] = ()) -> RegistryPoll:
        return RegistryPoll(self._settings, self._connect, self._make_pool, late)

    def _plan(self, asked: float, *, has_failed: bool) -> None:
        """When the next poll begins, after the one of that time."""
        self._failures = self._failures + 1 if has_failed else 0
        longest = max(MAX_PAUSE_SECONDS, self._settings.poll_seconds)
        self._next = asked + self._spread(backoff_seconds(self._settings.poll_seconds, 1 + self._failures, longest))

    def _give_up(self) -> bool:
        """Leave the connection to its threads, and open another one; False where too many are left already."""
        self._given_up = [each for each in self._given_up if not each.is_idle()]
        if len(self._given_up) >= MAX_GIVEN_UP:
            return False
        logger.warning("a request to the registry hangs and is given up; the next poll has a new connection")
        self._poll.close()
        self._given_up.append(self._poll)
        self._polling, self._poll = None, self._open(self._poll.late)
        return True

    def _take(self, view: RegistrySnapshot) -> None:
        if view.error and not self.view.error:
            logger.warning("the registry cannot be read, serving goes on: %s", view.error)
        elif self.view.error and not view.error:
            logger.info("the registry can be read again")
        for reference, problem in view.problems.items():
            if self.view.problems.get(reference) != problem:
                logger.warning("%s: %s", reference, problem)
        for name, problem in view.refused.items():
            if self.view.refused.get(name) != problem:
                logger.warning("%s is marked as deployed and cannot be followed: %s", name, problem)
        self.view = view


def connect_client(settings: RegistrySettings) -> Versions:
    """The registry's client, of an MLflow without what only other parts of it need."""
    import_client()
    return Versions(settings)
