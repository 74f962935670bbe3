"""What a front reads of new versions: each in a thread, so that one that is slow or cannot be read delays no other."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.contract import Contract
from registry.redaction import describe_error
from serving.front.loaded_version import LoadedVersion
from serving.runtime.backoff import backoff_seconds
from serving.wire.routing_table import VersionEntry
from serving.wire.version_state import VersionKey

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
"""Longest pause before a version that could not be read is tried again."""

logger = logging.getLogger("headwaiter.front")


@dataclass
class _Load:
    """A version that is being loaded. began: monotonic seconds. is_first: whether no attempt before it failed."""

    contract: Contract
    task: "asyncio.Task[LoadedVersion]"
    began: float
    is_first: bool


@dataclass
class _Failure:
    """A version that could not be loaded. attempts: that failed in a row."""

    contract: Contract
    error: str
    attempts: int
    again_at: float


class VersionLoads:
    """The loads that are in progress and those that failed. Runs in the front's event loop."""

    def __init__(self, ended: Callable[[], object] = lambda: None) -> None:
        """ended: called each time that a load has ended."""
        self._ended = ended
        self._running: dict[VersionKey, _Load] = {}
        self._failures: dict[VersionKey, _Failure] = {}

    def follow(self, missing: Mapping[VersionKey, VersionEntry]) -> None:
        """Load what is missing, unless it is in progress or failed a moment ago; forget everything else."""
        now = time.monotonic()
        for key in self._failures.keys() - missing.keys():
            del self._failures[key]
        for key in self._running.keys() - missing.keys():
            self._running.pop(key).task.cancel()
        for key, entry in missing.items():
            assert entry.contract is not None
            load, failure = self._running.get(key), self._failures.get(key)
            if load is not None and load.contract == entry.contract:
                continue
            if failure is not None and failure.contract == entry.contract and now < failure.again_at:
                continue
            if load is not None:
                load.task.cancel()
            work = asyncio.to_thread(LoadedVersion.load, *key, Path(entry.root), entry.contract)
            task = asyncio.create_task(work)
            task.add_done_callback(lambda _: self._ended())
            self._running[key] = _Load(entry.contract, task, now, failure is None)

    def take(self) -> list[LoadedVersion]:
        """The versions that are loaded now; they are no longer this class's. Failures are logged."""
        found = []
        for key, load in [each for each in self._running.items() if each[1].task.done()]:
            del self._running[key]
            try:
                found.append(load.task.result())
                self._failures.pop(key, None)
            except Exception as error:  # whatever it is, it is this version's alone
                self._note(key, load.contract, describe_error(error))
        return found

    def has_news(self) -> bool:
        """Whether a load has ended, or a version that failed is due again."""
        now = time.monotonic()
        return any(load.task.done() for load in self._running.values()) or any(
            key not in self._running and failure.again_at <= now for key, failure in self._failures.items()
        )

    def is_young(self, model: str, seconds: float) -> bool:
        """Whether a version of the model has been loading for less than `seconds`, for the first time."""
        now = time.monotonic()
        young = [key for key, load in self._running.items() if load.is_first and now - load.began < seconds]
        return any(name == model for name, _ in young)

    def error(self, key: VersionKey) -> str:
        """Why the version cannot be read here, or ""."""
        failure = self._failures.get(key)
        return failure.error if failure is not None else ""

    async def settle(self, seconds: float) -> None:
        """Wait until nothing is in progress, at most so long."""
        if self._running:
            await asyncio.wait([load.task for load in self._running.values()], timeout=seconds)

    def close(self) -> None:
        """Let go of what is in progress."""
        for load in self._running.values():
            load.task.cancel()
        self._running.clear()

    def _note(self, key: VersionKey, contract: Contract, error: str) -> None:
        before = self._failures.get(key)
        if before is None or before.error != error:
            logger.error("%s/%s cannot be read by this front, it is tried again: %s", *key, error)
        attempts = before.attempts + 1 if before is not None and before.contract == contract else 1
        pause = backoff_seconds(FIRST_PAUSE_SECONDS, attempts, MAX_PAUSE_SECONDS)
        self._failures[key] = _Failure(contract, error, attempts, time.monotonic() + pause)
