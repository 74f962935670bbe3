"""An engine's heart: the loop tells it what begins and when it got on, and it writes the heartbeat that others read."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from serving.wire.heartbeat import HeartbeatFile, Pulse, Rows

if TYPE_CHECKING:
    from pathlib import Path

    from serving.engine.batching.queue import Entry

BEAT_SECONDS = 0.2
"""How often a loop that gets on writes that it does; a small part of the seconds after which silence counts."""


class Heart:
    """Writes the heartbeat of one engine. path: None for an engine that nobody watches."""

    def __init__(self, path: "Path | None" = None) -> None:
        self._file = HeartbeatFile(path)
        self._turn = 0
        self._expected = 0.0
        self._rows: Rows | None = {}
        self._written = 0.0

    def begin(self, entries: "Iterable[Entry]", expected_seconds: float) -> None:
        """A forward pass begins. entries: the rows of all passes under way. expected_seconds: of these passes."""
        rows: Rows = {}
        for entry in entries:
            rows.setdefault(entry.client, []).append(entry.row.id)
        self._rows, self._expected = rows, expected_seconds
        self._write()

    def expect(self, expected_seconds: float) -> None:
        """The loop got on, and a step begins whose rows are not told."""
        self._turn += 1
        self._rows, self._expected = None, expected_seconds
        self._write()

    def turn(self, *, is_idle: bool) -> None:
        """The loop got on: what it waited for longest is done, or it waits for nothing, which is idle."""
        self._turn += 1
        if time.monotonic() - self._written > BEAT_SECONDS:
            if is_idle:
                self._rows, self._expected = {}, 0.0
            self._write()

    def close(self) -> None:
        """The loop has ended."""
        self._file.close()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._file.write(Pulse(self._turn, self._expected), self._rows)
