"""What this front asks of versions, told to the manager; and the requests that wait until their version is loaded.

Runs in the front's event loop.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from serving.errors import DeadlineExceeded, NotLoaded, NotReady
from serving.front.disconnects import Disconnected
from serving.front.held_requests import HeldRequests
from serving.front.loaded_version import LoadedVersion
from serving.wire.demand import WRITE_SECONDS, Asked, DemandFile
from serving.wire.version_state import VersionKey

RETRY_SECONDS = 5.0
"""When to try again, where nobody knows yet how long a version takes to load. Untuned."""

logger = logging.getLogger("headwaiter.front")


class VersionDemand:
    """The demand of one front. Construct it anywhere."""

    def __init__(self, run: Path) -> None:
        self._file = DemandFile(run)
        self._waiting: dict[VersionKey, HeldRequests] = {}
        self._counts: dict[VersionKey, int] = {}
        self._asked_at: dict[VersionKey, float] = {}
        self._is_told = True
        self._look_at = 0.0

    async def wait(self, missing: NotLoaded, deadline: float, disconnected: Disconnected | None) -> None:
        """Ask for a version, and return once it is loaded or will not be. deadline: in monotonic seconds.

        Raises NotReady where the deadline is before that, at once where that is known; ClientGone; and EngineLost where
        the front ends.
        """
        key = missing.key
        now = self._asked_at[key] = time.monotonic()
        again = missing.load_seconds or RETRY_SECONDS
        if deadline - now < missing.load_seconds:
            raise NotReady(f"{missing.message} in about {again:.1f} s: try again then", retry_seconds=again)
        held = self._waiting.setdefault(key, HeldRequests())
        self._counts[key] = self._counts.get(key, 0) + 1
        try:
            await held.wait((), deadline, disconnected)
        except DeadlineExceeded as error:
            raise NotReady(f"{missing.message}: try again later", retry_seconds=again) from error
        finally:
            self._counts[key] -= 1

    def wake(self, coming: Iterable[VersionKey]) -> None:
        """Let those go on whose version is loaded or will not be. coming: the versions that are not there yet."""
        for key in self._waiting.keys() - set(coming):
            self._waiting.pop(key).release()

    def tell(self, loaded: Iterable[LoadedVersion], now: float) -> None:
        """Tell the manager what is asked. To be called all the time; now: in monotonic seconds."""
        if not self._asked_at and now < self._look_at:
            return
        self._look_at = now + WRITE_SECONDS / 2
        asked = {
            (found.model, found.version): Asked(found.model, found.version, found.asked_at, found.has_work)
            for found in loaded
        }
        waiting = {key for key, count in self._counts.items() if count}
        for key, at in self._asked_at.items():
            known = asked.get(key)
            has_work = key in waiting or (known is not None and known.has_work)
            asked[key] = Asked(*key, max(at, known.at if known is not None else 0.0), has_work)
        self._counts = {key: self._counts[key] for key in waiting}
        try:
            self._file.write(asked, self._asked_at.keys(), now)
        except OSError as error:
            if self._is_told:
                logger.error("what is asked cannot be told to the manager: %s", error)
            self._is_told = False
            return
        self._is_told = True
        self._asked_at = {key: at for key, at in self._asked_at.items() if key in waiting}

    def close(self) -> None:
        """Let those fail that wait."""
        for held in self._waiting.values():
            held.give_up()
        self._waiting.clear()
        self._file.close()
