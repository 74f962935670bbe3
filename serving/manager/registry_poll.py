"""One connection to the registry: asks for all references at a time, in threads of its own.

One request lists the aliases of all models. Only a reference that it does not show unchanged is asked for by itself:
one that is refused, answered with nonsense or not answered holds up no other. A registry that does not answer is asked
for one reference, and for the others once that was answered: it is not given more to do while it has too much.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field

from registry.deployments import Deployments
from registry.errors import NotFound, RegistryUnavailable, RequestRefused
from registry.redaction import redact
from registry.references import Reference, ResolvedVersion
from registry.versions import Versions
from serving.manager.last_live import LastLive
from serving.runtime.backoff import jittered
from serving.settings import ServingSettings

SLOW_SECONDS = 5.0
"""A registry that has not answered for this long is reported as slow, and so is one reference."""
REQUESTS = 8
"""References that are asked for at a time. Untuned: more than may plausibly hang while the registry answers."""
RECHECK_SECONDS = 60.0
"""How long the list of aliases is enough: now and then each reference is asked for by itself, because the list shows
neither tags nor that a version which was named by its number is deleted. One a poll, so that a poll takes two requests
at most however many models there are. Untuned."""

Answer = ResolvedVersion | Exception
MakePool = Callable[[int, str], Executor]
"""The number of threads and the beginning of their names → a pool."""


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


class RegistryPoll:
    """The connection. late: references that have not been answered in time; they are waited for no more.

    A poll that hangs leaves it useless; another one replaces it then.
    """

    def __init__(
        self,
        settings: ServingSettings,
        connect: Callable[[], Versions],
        make_pool: MakePool,
        late: Iterable[Reference] = (),
    ) -> None:
        """connect: makes the registry's client, at the first poll."""
        self._settings = settings
        self._connect = connect
        self._last_live = LastLive(settings.registry)
        self._pool = make_pool(1, "headwaiter-registry")
        self._requests = make_pool(REQUESTS, "headwaiter-registry-request")
        self._waiting: dict[Reference, Future[ResolvedVersion]] = {}
        self._since: dict[Reference, float] = {}
        self._known: dict[Reference, tuple[ResolvedVersion, float]] = {}
        self._listing: Future[Mapping[str, Mapping[str, str]]] | None = None
        self._turn = 0
        self._versions: Versions | None = None
        self._polling: Future[RegistrySnapshot] | None = None
        self.late = set(late)

    def begin(self, before: RegistrySnapshot, also: tuple[Reference, ...] = ()) -> Future[RegistrySnapshot]:
        """Ask for every reference. before: the latest answer. also: references to serve beside the others."""
        self._polling = self._pool.submit(self._poll, before, also)
        return self._polling

    def oldest_seconds(self) -> float:
        """How long the request for a reference has been waiting that was asked for first."""
        now = time.monotonic()
        return max((now - self._since[key] for key, asked in self._waiting.items() if not asked.done()), default=0.0)

    def is_idle(self) -> bool:
        """Whether none of its threads works."""
        futures: list[Future[RegistrySnapshot] | Future[ResolvedVersion] | None] = [self._polling]
        return all(each is None or each.done() for each in (*futures, *self._waiting.values(), self._listing))

    def close(self) -> None:
        """Begin nothing more."""
        for pool in (self._pool, self._requests):
            pool.shutdown(wait=False, cancel_futures=True)

    def _poll(self, before: RegistrySnapshot, also: tuple[Reference, ...]) -> RegistrySnapshot:
        """Ask for every reference; runs in the thread and never raises."""
        references, refused, error = self._references(before, also)
        answers = self._ask(references, was_answered=not before.error)
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

    def _references(
        self, before: RegistrySnapshot, also: tuple[Reference, ...]
    ) -> tuple[tuple[Reference, ...], Mapping[str, str], str]:
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
        return tuple(dict.fromkeys((*self._settings.models, *found.references, *kept, *also))), found.refused, ""

    def _ask(self, references: Sequence[Reference], *, was_answered: bool) -> dict[Reference, Answer]:
        """What the registry says to each reference, or what was raised. was_answered: whether the last poll was.

        A request that takes longer than SLOW_SECONDS goes on; its answer is that of a later call. A reference that was
        late is not waited for until it has been answered, so that it holds up the others only once.
        """
        versions = self._versions
        if versions is None:
            return dict.fromkeys(references, RegistryUnavailable("the registry cannot be opened"))
        known = self._listable(references)
        unchanged = self._list(versions, known)
        self._waiting = {key: asked for key, asked in self._waiting.items() if key in references}
        self._known = {key: found for key, found in self._known.items() if key in references}
        self._since = {key: since for key, since in self._since.items() if key in self._waiting}
        self.late &= set(references)
        answers = True
        if unchanged is None or not was_answered:
            answers = self._probe(versions, [each for each in references if each not in (unchanged or {})])
            unchanged = self._listed(known) if unchanged is None else unchanged  # it may have come meanwhile
        found: dict[Reference, Answer] = dict(unchanged or {})
        for reference in [key for key in found if key in self._waiting and self._waiting[key].done()]:
            del self._waiting[reference]
        others = [reference for reference in references if reference not in found]
        for reference in others if answers else ():
            self._submit(versions, reference)
        asked = [reference for reference in others if reference in self._waiting]
        wait([self._waiting[reference] for reference in asked if reference not in self.late], SLOW_SECONDS)
        trouble: Exception = RegistryUnavailable("the registry does not answer")
        for reference in asked:
            if not self._waiting[reference].done():
                self.late.add(reference)
                found[reference] = RegistryUnavailable(f"the registry has no answer for {reference} yet: it is slow")
                continue
            try:
                answer = self._waiting.pop(reference).result()
                self.late.discard(reference)
                found[reference] = answer
                self._known[reference] = (answer, time.monotonic() + jittered(RECHECK_SECONDS))
            except Exception as problem:  # as above
                found[reference] = problem
                if not isinstance(problem, NotFound | RequestRefused):  # which are about this reference alone
                    trouble = problem
        return {reference: found.get(reference, trouble) for reference in references}

    def _probe(self, versions: Versions, references: Sequence[Reference]) -> bool:
        """Ask for one of the references, another one each time; whether the registry answers it, or one before."""
        new = [reference for reference in references if reference not in self._waiting]
        if not new or any(map(_is_answered, self._waiting.values())):
            return True
        self._turn += 1
        first = new[self._turn % len(new)]
        self._submit(versions, first)
        wait([self._waiting[first]], SLOW_SECONDS)
        return _is_answered(self._waiting[first])

    def _submit(self, versions: Versions, reference: Reference) -> None:
        """Ask for a reference by itself, unless it is waited for already."""
        if reference not in self._waiting:
            self._since[reference] = time.monotonic()
            self._waiting[reference] = self._requests.submit(versions.resolve, reference)

    def _listable(self, references: Sequence[Reference]) -> dict[Reference, ResolvedVersion]:
        """The references that a list of aliases is enough for: all that are known but the one that is due again."""
        pinned = {key: found for key, found in self._known.items() if key in references and found[0].is_pinned}
        known = {reference: version for reference, (version, _) in pinned.items()}
        oldest = min(known, key=lambda reference: pinned[reference][1], default=None)
        if oldest is not None and pinned[oldest][1] <= time.monotonic():
            del known[oldest]
        return known if len(known) > 1 else {}

    def _list(
        self, versions: Versions, known: Mapping[Reference, ResolvedVersion]
    ) -> dict[Reference, ResolvedVersion] | None:
        """The references that still mean what they meant, by one request for all; None where that has no answer."""
        if not known:
            return {}
        if self._listing is None or self._listing.done():
            names = sorted({reference.name for reference in known})
            self._listing = self._requests.submit(lambda: versions.aliases(names))
            wait([self._listing], SLOW_SECONDS)
        return self._listed(known)

    def _listed(self, known: Mapping[Reference, ResolvedVersion]) -> dict[Reference, ResolvedVersion] | None:
        if self._listing is None or not self._listing.done() or self._listing.exception() is not None:
            return None
        listed = self._listing.result()
        return {
            reference: version
            for reference, version in known.items()
            if reference.name in listed
            and version.version == (reference.version or listed[reference.name].get(reference.alias or ""))
        }


def _is_answered(asked: "Future[ResolvedVersion]") -> bool:
    """Whether the registry has said something to a reference, be it that there is no such thing."""
    return asked.done() and isinstance(asked.exception(), NotFound | RequestRefused | None)
