"""The routing table: which version of which model is served by which engine, and which one is live.

The manager writes the table and the fronts read it. It is one small file, which is replaced atomically. The
modification time of a second file is the manager's heartbeat. A front that starts later reads the same state, and a
manager that dies leaves its last state behind.
"""

import os
import time
from pathlib import Path
from typing import Literal

import msgspec

from registry.contract import Contract
from serving.wire.engine_orders import FORMAT, EngineProperties
from serving.wire.report_file import write_report
from serving.wire.version_state import State

TABLE = "routes.json"
HEARTBEAT = "heartbeat"
NUDGE = "nudge"
FRONTS_LOCK = "fronts.lock"


class EngineEntry(EngineProperties, frozen=True, kw_only=True):
    """An engine that answers at `address`. accepting: False once it only finishes what it has."""

    address: str
    pid: int
    accepting: bool


class VersionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A version. error: why it failed, also while it is retried. attempt: counted from 1. root: the artifact's folder.

    memory_bytes: of the version's engines. restarts: of its engines, since they were first started. on_demand: whether
    it has no engine for new requests now, and is loaded for them. load_seconds: how long loading took, 0 if unknown.
    """

    state: State
    error: str = ""
    attempt: int = 1
    root: str = ""
    contract: Contract | None = None
    memory_bytes: int = 0
    restarts: int = 0
    on_demand: bool = False
    load_seconds: float = 0.0
    engines: tuple[EngineEntry, ...] = ()


SwapOutcome = Literal["success", "failure", "crashed"]
"""How a swap ended: the version is served; it could not be loaded; or it was live and crashed, see `Swap`."""


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """A change of what a reference serves, or an attempt at it.

    time: seconds since the epoch. reference: `name@alias` or `name/version`. outcome: where it is "crashed",
    `from_version` gave way to `to_version`. seconds: since the registry was seen to name it. error: why, unless it was
    a success.
    """

    time: float
    reference: str
    from_version: str | None
    to_version: str
    outcome: SwapOutcome
    seconds: float
    error: str = ""


class RolloutEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout that is under way, as fronts follow it.

    alias: whose requests are shared out, and those that name nothing where it is what the model serves. weight: the
    candidate's share in 0..1. is_shadowing: whether the candidate answers requests of the stable version, too, to be
    compared. salt: of the hash by which keys choose. Counts are kept by id and step. verdicts: metric of a guard → 1
    where it passes, 0 inconclusive, -1 failed. waiting_seconds: how much longer than planned the step has taken.
    phase: "running", "paused" or "baking". steps: as users write them.
    """

    id: str
    step: int
    alias: str
    stable: str
    candidate: str
    weight: float
    is_shadowing: bool
    salt: str
    verdicts: dict[str, int] = {}
    waiting_seconds: float = 0.0
    phase: str = ""
    steps: tuple[str, ...] = ()


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model. live: the version that answers when none is named. aliases: alias → version that it serves.

    serves, previous: per reference, the version that it serves and those that it served before, latest first.
    rollout: that is under way, or None.
    """

    live: str | None
    aliases: dict[str, str | None]
    versions: dict[str, VersionEntry]
    serves: dict[str, str | None] = {}
    previous: dict[str, list[str]] = {}
    swaps: tuple[Swap, ...] = ()
    error: str = ""
    rollout: RolloutEntry | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether no reference names it any more, so that its versions only complete the requests that they have."""
        return self.live is None and not self.serves


class Table(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """Everything that is served. registry_error: why the registry could not be read at the last poll, or empty.

    is_known: whether the registry has been asked what to serve. has_started: whether each reference that was wanted at
    the start is live or has failed for good; once true it stays. taken_bytes: of the memory that engines may take.
    """

    models: dict[str, ModelEntry] = {}
    registry_error: str = ""
    is_known: bool = False
    has_started: bool = False
    taken_bytes: int = 0


class TableFile:
    """The table's place in a server's run folder, for its one writer and its readers."""

    def __init__(self, run: Path) -> None:
        self._path = run / TABLE
        self._heartbeat = run / HEARTBEAT
        self._nudge = run / NUDGE
        self._nudged = 0
        self._seen: tuple[int, int] | None = None

    def write(self, table: Table) -> None:
        """Replace the table atomically."""
        write_report(self._path, table)

    def beat(self) -> None:
        """Give the manager's heartbeat: the file's time is the machine's monotonic clock, which nobody sets."""
        self._heartbeat.touch()
        now = time.monotonic_ns()
        os.utime(self._heartbeat, ns=(now, now))

    def nudge(self) -> None:
        """Ask the manager to poll the registry at once. Raises OSError if the folder is gone."""
        self._nudge.touch()
        now = time.time_ns()  # the kernel's own time steps in milliseconds: two nudges in one step would look like one
        os.utime(self._nudge, ns=(now, now))

    def was_nudged(self) -> bool:
        """Whether `nudge` was called since the last call."""
        try:
            seen = os.stat(self._nudge).st_mtime_ns
        except FileNotFoundError:
            return False
        before, self._nudged = self._nudged, seen
        return seen != before

    def read(self) -> Table:
        """The current table; an empty one if there is none that can be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Table)
        except (OSError, msgspec.DecodeError):
            return Table()

    def read_if_changed(self) -> Table | None:
        """The table if it was replaced since the last call that returned it, else None.

        Raises OSError, or msgspec.DecodeError for a table of another release.
        """
        try:
            stat = os.stat(self._path)
            seen = (stat.st_ino, stat.st_mtime_ns)
            if seen == self._seen:
                return None
            table = msgspec.json.decode(self._path.read_bytes(), type=Table)
        except FileNotFoundError:
            return None
        self._seen = seen
        return table

    def silence_seconds(self) -> float:
        """Seconds since the manager's last heartbeat; infinite before the first, and where it cannot be looked at."""
        try:
            return max(0.0, time.monotonic() - os.stat(self._heartbeat).st_mtime)
        except OSError:
            return float("inf")
