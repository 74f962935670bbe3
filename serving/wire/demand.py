"""From the fronts to the manager: which versions are asked for, and which have work.

Each front writes one small file in the run folder, which is replaced atomically; the manager reads those that changed.
"""

import math
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from serving.wire.report_file import write_report
from serving.wire.version_state import VersionKey

DEMAND = "demand"
"""The folder of the fronts' files, in the run folder."""
WRITE_SECONDS = 0.5
"""How often a front tells of loaded versions; it tells at once which one is to be loaded."""
STALE_SECONDS = 5.0
"""A front that has told nothing for so long has no work: it tells of work all the time."""
FORGET_SECONDS = 60.0
"""Then its file is removed; a front that is there writes it again."""


class Asked(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is asked of a version. at: the latest request, in monotonic seconds. has_work: whether requests wait."""

    model: str
    version: str
    at: float
    has_work: bool = False


class FrontDemand(msgspec.Struct, frozen=True, array_like=True):
    """One front's file. at: when it was written, in monotonic seconds."""

    at: float
    asked: tuple[Asked, ...] = ()


class DemandFile:
    """A front's own file."""

    def __init__(self, run: Path) -> None:
        self._path = run / DEMAND / f"{os.getpid()}.json"
        self._told: dict[VersionKey, Asked] = {}
        self._written = 0.0

    def write(self, asked: Mapping[VersionKey, Asked], waiting: AbstractSet[VersionKey], now: float) -> None:
        """Tell what is asked, now and then. Raises OSError where the folder is gone.

        waiting: the versions that are not loaded and asked for; of these it is told at once.
        """
        if all(asked[key] == self._told.get(key) for key in waiting):
            has_work = any(each.has_work for each in asked.values())
            pause = WRITE_SECONDS if asked != self._told else STALE_SECONDS / 4 if has_work else math.inf
            if now - self._written < pause:
                return
        self._path.parent.mkdir(exist_ok=True)  # not its parent: a run folder that is gone is not made again
        write_report(self._path, FrontDemand(now, tuple(asked.values())))
        self._told, self._written = dict(asked), now

    def close(self) -> None:
        """The front has ended."""
        self._path.unlink(missing_ok=True)


class DemandReader:
    """The manager's side: what all fronts have told. Not for use from several threads."""

    def __init__(self, run: Path) -> None:
        self._folder = run / DEMAND
        self._files: dict[str, tuple[tuple[int, int], FrontDemand]] = {}
        self._at: dict[VersionKey, float] = {}
        self._working: set[VersionKey] = set()

    def read(self, now: float) -> None:
        """Read what has been told since the last call."""
        seen: dict[str, tuple[tuple[int, int], FrontDemand]] = {}
        for entry in self._entries():
            try:
                stat = entry.stat()
                mark = (stat.st_ino, stat.st_mtime_ns)
                known = self._files.get(entry.name)
                if known is None or known[0] != mark:
                    known = mark, msgspec.json.decode(Path(entry.path).read_bytes(), type=FrontDemand)
                    self._take(known[1])
            except (OSError, msgspec.DecodeError):  # replaced or removed meanwhile
                continue
            if now - known[1].at > FORGET_SECONDS:
                Path(entry.path).unlink(missing_ok=True)
            seen[entry.name] = known
        self._files = seen
        told = [told for _, told in seen.values() if now - told.at <= STALE_SECONDS]
        self._working = {(each.model, each.version) for found in told for each in found.asked if each.has_work}

    def asked_at(self, key: VersionKey) -> float:
        """When the version was last asked for, in monotonic seconds; 0 for never."""
        return self._at.get(key, 0.0)

    def is_quiet(self, seconds: float, now: float) -> bool:
        """Whether no request waits for an answer and none has arrived in the last `seconds`."""
        return not self._working and now - max(self._at.values(), default=-math.inf) > seconds

    def has_work(self, key: VersionKey) -> bool:
        """Whether requests for it wait for their answers."""
        return key in self._working

    def _entries(self) -> list["os.DirEntry[str]"]:
        try:
            return [entry for entry in os.scandir(self._folder) if entry.name.endswith(".json")]  # others are staged
        except OSError:
            return []

    def _take(self, told: FrontDemand) -> None:
        for each in told.asked:
            key = (each.model, each.version)
            self._at[key] = max(each.at, self._at.get(key, 0.0))
