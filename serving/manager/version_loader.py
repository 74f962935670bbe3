"""Begins to load versions: finds where their files are, fetches them, and remembers what could not be loaded."""

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from registry.cache import discard, is_cached
from registry.references import Reference, ResolvedVersion
from registry.settings import InvalidSetting, RegistrySettings
from serving.errors import EngineError
from serving.manager.last_live import LastLive
from serving.manager.managed_version import Fetched, ManagedVersion
from serving.manager.registry_watch import RegistryWatch
from serving.runtime.backoff import backoff_seconds
from serving.runtime.priority import run_at_low_priority
from serving.settings import ServingSettings
from serving.wire.version_state import VersionKey

logger = logging.getLogger("headwaiter.manager")

MAX_RETRY_SECONDS = 3600.0
"""Longest pause before a version that failed is tried again."""

FETCHES = 64
"""Versions that are fetched at a time. Untuned: far more than may hang in a store without holding up the others."""


class VersionLoader:
    """Fetches in threads of its own. Not for use from several threads.

    failed: the latest attempt of each version that could not be loaded.
    """

    def __init__(
        self,
        settings: ServingSettings,
        fetch: Callable[[ResolvedVersion, RegistrySettings], Fetched],
        watch: RegistryWatch,
        last_live: LastLive,
        spread: Callable[[float, float], float],
        wake: Callable[[], object],
    ) -> None:
        """spread: of a pause and the time at which it began. wake: called when files have come, in any thread."""
        self._settings = settings
        self.fetch = fetch
        self._watch = watch
        self._last_live = last_live
        self._spread = spread
        self._wake = wake
        self.fetchers: Executor = ThreadPoolExecutor(FETCHES, thread_name_prefix="headwaiter-fetch")
        self.failed: dict[VersionKey, ManagedVersion] = {}

    def begin(self, key: VersionKey, *, low_priority: bool) -> ManagedVersion:
        """The version, whose files are being fetched. low_priority: whether that yields to what serves."""
        failed = self.failed.get(key)
        attempt, error = (failed.attempt + 1, failed.error) if failed is not None else (1, "")
        logger.info("loading %s/%s, attempt %d", *key, attempt)
        fetching: Future[Fetched]
        resolved = self._resolved(key)
        cached = resolved is not None and is_cached(resolved, self._settings.registry)
        if failed is not None and failed.fetching is not None and not failed.fetching.done():
            fetching = failed.fetching  # it took longer than a load may take; another one would hang beside it
        elif resolved is not None:
            work = partial(self.fetch, resolved, self._settings.registry)
            fetching = self.fetchers.submit(run_at_low_priority, work) if low_priority else self.fetchers.submit(work)
        else:
            fetching = Future()
            why = "the registry no longer names it, and it is not in the cache"
            fetching.set_exception(EngineError(f"{why}: promote it again, or another version"))
        fetching.add_done_callback(lambda _: self._wake())
        return ManagedVersion(*key, fetching, attempt=attempt, error=error, is_cached=cached)

    def note_failure(self, managed: ManagedVersion) -> None:
        """The version could not be loaded. Files that are not those that were logged leave the cache."""
        self.failed[managed.name, managed.version] = managed
        if managed.is_damaged:
            self._discard(managed)

    def fetch_again(self, managed: ManagedVersion) -> None:
        """Replace the files of a version whose engine could not be restarted with them."""
        resolved = self._resolved((managed.name, managed.version))
        if resolved is None or (managed.fetching is not None and not managed.fetching.done()):
            return
        self._discard(managed)
        logger.warning("the files of %s/%s changed in the cache; they are fetched again", managed.name, managed.version)
        managed.fetching = self.fetchers.submit(self.fetch, resolved, self._settings.registry)

    def is_due_again(self, managed: ManagedVersion, live: Collection[VersionKey], now: float) -> bool:
        """Whether a version that failed to load may be tried again; one that crashed while live is not.

        live: what is served.
        """
        if managed.state != "failed" or (managed.name, managed.version) not in self.failed or managed.engines:
            return False
        others = [version for name, version in live if name == managed.name]
        if managed.took_place or (managed.is_given_up and any(version != managed.version for version in others)):
            return False
        if managed.is_damaged and managed.is_cached and managed.attempt == 1:
            return True  # the copy here was damaged and is removed; the store's may be whole
        pause = backoff_seconds(self._settings.retry_seconds, managed.attempt, MAX_RETRY_SECONDS)
        return bool(now - managed.failed_at > self._spread(pause, managed.failed_at))

    def has_failed(self, reference: Reference) -> bool:
        """Whether the version that a reference names could not be loaded, for good."""
        target = self._watch.view.targets.get(reference)
        failed = self.failed.get((target.name, target.version)) if target is not None else None
        return failed is not None and failed.has_failed_for_good

    def close(self) -> None:
        """Fetch no more; does not wait for what is being fetched."""
        self.fetchers.shutdown(wait=False, cancel_futures=True)

    def _resolved(self, key: VersionKey) -> ResolvedVersion | None:
        """Where the version's files are: by the registry, or by what was live before."""
        seen = (found for found in self._watch.view.targets.values() if found is not None)
        found = next((found for found in seen if (found.name, found.version) == key), None)
        return found or self._last_live.recall(Reference(key[0], version=key[1]))

    def _discard(self, managed: ManagedVersion) -> None:
        """Remove the version's files from the cache."""
        if managed.root is not None:
            with suppress(OSError, InvalidSetting):
                discard(managed.root, self._settings.registry)
