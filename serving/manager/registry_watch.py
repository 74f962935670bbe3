"""Polls the registry: resolves every reference again and again, outside of the manager's thread.

A reference that cannot be read keeps its last answer, so serving goes on. Each one is asked for by itself: one that is
refused, answered with nonsense or not answered holds up no other. If no reference gets an answer the trouble is the
registry's, which is then polled with growing pauses.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from registry.errors import NotFound, RegistryUnavailable, RequestRefused
from registry.redaction import redact
from registry.references import Reference, ResolvedVersion
from registry.versions import Deployments, Versions
from serving.manager.last_live import LastLive
from serving.runtime.backoff import backoff_seconds
from serving.settings import ServingSettings

logger = logging.getLogger("headwaiter.manager")

MAX_PAUSE_SECONDS = 30.0
"""Longest pause between two polls of a failing registry."""
NUDGED_SECONDS = 0.25
"""Least time between two polls that nudges cause, unless the poll interval is shorter."""
SLOW_SECONDS = 5.0
"""A registry that has not answered for this long is reported as slow, and so is one reference."""
REQUESTS = 8
"""References that are asked for at a time. Untuned: more than may plausibly hang while the registry answers."""

Answer = ResolvedVersion | Exception


@dataclass(frozen=True)
class RegistrySnapshot:
    """The registry's latest answer. targets: of every reference, None where it names nothing (yet).

    problems: per reference, why it names nothing or could not be read. refused: per model that is marked as deployed,
    why its mark cannot be followed. error: why the registry could not be read, or empty. moved: when each target was
    first seen, in monotonic seconds. is_known: False before the registry was asked. unanswered: those with a problem
    that may pass, as no answer at all.
    """

    targets: Mapping[Reference, ResolvedVersion | None]
    problems: Mapping[Reference, str] = field(default_factory=dict)
    error: str = ""
    moved: Mapping[Reference, float] = field(default_factory=dict)
    is_known: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    unanswered: Collection[Reference] = ()


class RegistryWatch:
    """Polls the registry; `view` is the latest answer, replaced as a whole. `step` never blocks."""

    def __init__(
        self,
        settings: ServingSettings,
        woken: threading.Event,
        connect: Callable[[], Versions] | None = None,
    ) -> None:
        """woken: set when `view` was replaced. connect: makes the registry's client, at the first poll."""
        self._settings = settings
        self._woken = woken
        self._connect = connect or (lambda: Versions(settings.registry))
        self._last_live = LastLive(settings.registry)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="headwaiter-registry")
        self._requests = ThreadPoolExecutor(REQUESTS, thread_name_prefix="headwaiter-registry-request")
        self._waiting: dict[Reference, Future[ResolvedVersion]] = {}
        self._late: set[Reference] = set()
        self._versions: Versions | None = None
        self._polling: Future[RegistrySnapshot] | None = None
        self._asked = 0.0
        self._next = 0.0
        self._failures = 0
        self._again = False
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
                return
            polled, self._polling = self._polling, None
            self._take(polled.result())
            self._failures = self._failures + 1 if self.view.error else 0
            longest = max(MAX_PAUSE_SECONDS, self._settings.poll_seconds)
            self._next = self._asked + backoff_seconds(self._settings.poll_seconds, 1 + self._failures, longest)
        if now >= self._next or (self._again and now - self._asked >= NUDGED_SECONDS):
            self._asked, self._again = now, False
            self._polling = self._pool.submit(self._poll)
            self._polling.add_done_callback(lambda _: self._woken.set())

    def idle_seconds(self, now: float) -> float:
        """How long `step` has nothing to do, unless an answer comes."""
        return MAX_PAUSE_SECONDS if self._polling is not None else max(0.0, self._next - now)

    def expect(self, references: Iterable[Reference]) -> None:
        """Before the first answer: these are served already."""
        self.view = RegistrySnapshot(dict.fromkeys((*self._settings.models, *references)))

    def close(self) -> None:
        """Stop polling."""
        for pool in (self._pool, self._requests):
            pool.shutdown(wait=False, cancel_futures=True)

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

    def _poll(self) -> RegistrySnapshot:
        """Ask for every reference; runs in the thread and never raises."""
        before = self.view
        references, refused, error = self._references(before)
        answers = self._ask(references)
        is_answered = any(isinstance(answer, ResolvedVersion | NotFound) for answer in answers.values())
        targets: dict[Reference, ResolvedVersion | None] = {}
        problems: dict[Reference, str] = {}
        for reference, answer in answers.items():
            if isinstance(answer, ResolvedVersion):
                targets[reference] = answer
                continue
            targets[reference] = before.targets.get(reference)
            if not isinstance(answer, NotFound):
                targets[reference] = targets[reference] or self._last_live.recall(reference)
            if is_answered or isinstance(answer, RequestRefused):
                problems[reference] = redact(str(answer))
            else:
                error = error or redact(str(answer))
        now = time.monotonic()
        moved = {key: before.moved.get(key, now) if before.targets.get(key) == targets[key] else now for key in targets}
        unanswered = [key for key in problems if not isinstance(answers[key], NotFound | RequestRefused)]
        return RegistrySnapshot(targets, problems, error, moved, is_known=True, refused=refused, unanswered=unanswered)

    def _references(self, before: RegistrySnapshot) -> tuple[tuple[Reference, ...], Mapping[str, str], str]:
        """The references to serve: those that were named, and those that the registry marks as deployed.

        Also why a mark cannot be followed, by model, and why the marks could not be read, or "". A model whose mark
        becomes one that cannot be followed is served as before.
        """
        try:
            if self._versions is None:
                self._versions = self._connect()
            found = self._versions.deployments() if self._settings.deployments else Deployments()
        except Exception as problem:  # a registry may fail in any way; what is loaded goes on serving
            return tuple(before.targets), before.refused, redact(str(problem))
        kept = [reference for reference in before.targets if reference.name in found.refused]
        return tuple(dict.fromkeys((*self._settings.models, *found.references, *kept))), found.refused, ""

    def _ask(self, references: Sequence[Reference]) -> dict[Reference, Answer]:
        """What the registry says to each reference, or what was raised.

        A request that takes longer than SLOW_SECONDS goes on; its answer is that of a later call. A reference that was
        late is not waited for until it has been answered, so that it holds up the others only once.
        """
        versions = self._versions
        if versions is None:
            return dict.fromkeys(references, RegistryUnavailable("the registry cannot be opened"))
        self._waiting = {key: asked for key, asked in self._waiting.items() if key in references}
        for reference in references:
            if reference not in self._waiting:
                self._waiting[reference] = self._requests.submit(versions.resolve, reference)
        wait([asked for reference, asked in self._waiting.items() if reference not in self._late], SLOW_SECONDS)
        found: dict[Reference, Answer] = {}
        for reference in references:
            if not self._waiting[reference].done():
                self._late.add(reference)
                found[reference] = RegistryUnavailable(f"the registry has no answer for {reference} yet: it is slow")
                continue
            try:
                found[reference] = self._waiting.pop(reference).result()
                self._late.discard(reference)
            except Exception as problem:  # as above
                found[reference] = problem
        return found
