"""The routing table: which version of which model is served by which engine, and which one is live.

The manager writes it, the fronts read it: one small file, replaced in one step when something changes, and a second one
whose modification time is the manager's heartbeat. A front that starts late reads the same truth, and a manager that
dies leaves the last good state behind.
"""

import os
import time
from pathlib import Path
from typing import Any

import msgspec

from registry.contract import Contract
from serving.report import write_report

TABLE = "routes.json"
HEARTBEAT = "heartbeat"
FRONTS_LOCK = "fronts.lock"


class EngineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that answers at `address`. accepting: False once it only finishes what it has."""

    address: str
    device: str
    dtype: str
    dtype_note: str
    budget_tokens: int
    tokens_per_second: float
    accepting: bool


class VersionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A version. state: "loading", "ready", "failed" (error says why) or "draining". root: its artifact's folder."""

    state: str
    error: str = ""
    root: str = ""
    contract: Contract | None = None
    engines: tuple[EngineEntry, ...] = ()


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model. live: the version that answers when none is named. aliases: alias → version that it serves."""

    live: str | None
    aliases: dict[str, str | None]
    versions: dict[str, VersionEntry]
    error: str = ""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is served. registry_error: why the registry could not be read at the last poll, or empty."""

    models: dict[str, ModelEntry] = {}
    registry_error: str = ""


class TableFile:
    """The table's place in a server's run folder, for its one writer and its readers."""

    def __init__(self, run: Path) -> None:
        self._path = run / TABLE
        self._heartbeat = run / HEARTBEAT
        self._seen: tuple[int, int] | None = None

    def write(self, table: Table) -> None:
        """Replace the table."""
        write_report(self._path, table)

    def beat(self) -> None:
        """Say that the manager lives."""
        self._heartbeat.touch()

    def read_if_changed(self) -> Table | None:
        """The table if it was replaced since the last call, else None."""
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
        """Seconds since the manager's last heartbeat; infinite before the first."""
        try:
            return max(0.0, time.time() - os.stat(self._heartbeat).st_mtime)
        except FileNotFoundError:
            return float("inf")


def describe_model(name: str, entry: ModelEntry) -> dict[str, Any]:
    """What `GET /models/{name}` shows: versions, states, aliases, contract; no paths and no addresses."""
    return {
        "name": name,
        "live": entry.live,
        "aliases": entry.aliases,
        "error": entry.error or None,
        "versions": {
            version: {
                "state": found.state,
                "error": found.error or None,
                "engines": [
                    {
                        "device": engine.device,
                        "dtype": engine.dtype,
                        "dtype_note": engine.dtype_note or None,
                        "budget_tokens": engine.budget_tokens,
                        "tokens_per_second": round(engine.tokens_per_second),
                    }
                    for engine in found.engines
                ],
                "contract": found.contract.to_record() if found.contract else None,
            }
            for version, found in entry.versions.items()
        },
    }
