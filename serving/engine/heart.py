"""An engine's heart: the loop tells it what begins and when it got on, and it writes the heartbeat that others read."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from serving.wire.heartbeat import HeartbeatFile, Pulse, Rows

if TYPE_CHECKING:
    from pathlib import Path

    from serving.wire.messages import Row

BEAT_SECONDS = 0.2
"""How often a loop that gets on writes that it does; a small part of the seconds after which silence counts."""


class Computed(Protocol):
    """A row that is computed, with what else an engine knows of it."""

    @property
    def client(self) -> bytes:
        """The front's ZeroMQ identity."""

    @property
    def row(self) -> "Row":
        """The row."""


class Heart:
    """Writes the heartbeat of one engine. path: None for an engine that nobody watches."""

    def __init__(self, path: "Path | None" = None) -> None:
        self._file = HeartbeatFile(path)
        self._turn = 0
        self._expected = 0.0
        self._rows: Rows = {}
        self._is_suspect = False
        self._written = 0.0

    def begin(self, entries: Iterable[Computed], expected_seconds: float, *, has_turned: bool = False) -> None:
        """A forward pass begins. entries: the rows of all passes under way. expected_seconds: of these passes.

        has_turned: whether the loop got on by that.
        """
        rows: Rows = {}
        is_suspect = False
        for entry in entries:
            rows.setdefault(entry.client, []).append(entry.row.id)
            is_suspect |= entry.row.is_suspect
        self._rows, self._is_suspect, self._expected = rows, is_suspect, expected_seconds
        self._turn += has_turned
        self._write()

    def turn(self, *, is_idle: bool) -> None:
        """Record progress of the loop: the oldest forward pass has ended, or nothing is under way, which is idle."""
        self._turn += 1
        if time.monotonic() - self._written > BEAT_SECONDS:
            if is_idle:
                self._rows, self._is_suspect, self._expected = {}, False, 0.0
            self._write()

    def close(self) -> None:
        """The loop has ended."""
        self._file.close()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._file.write(Pulse(self._turn, self._expected, self._is_suspect), self._rows)
