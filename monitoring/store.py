"""Counting, cheap enough for the hot path: numbers in a memory-mapped file of each process, which the scrape reads.

A process owns an index `<name>.index` (JSON lines: which series has which slots) and values `<name>.<segment>.values`
(float64). A slot is written by its owner only; a killed process leaves every count behind. The owner holds a lock on
its index as long as it lives, so no reader needs process ids. Next: merge, which reads the folder.

prometheus_client's own shared files were measured first: 3.2 µs for an observation against 0.4 µs here, a key parsed
for every value at every scrape, and no way to let a series leave.
"""

import fcntl
import json
import mmap
import os
import secrets
import shutil
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from monitoring.exemplars import SLOTS, Exemplars
from monitoring.metrics import Metric

SEGMENT_SLOTS = 1 << 16
SLOT_BYTES = 8
TEMPORARY = "headwaiter-counts-"  # releases before made folders without locks, by another name
"""The beginning of a temporary folder's name."""


class Counter:
    """A number that only grows."""

    __slots__ = ("_slot", "_slots")

    def __init__(self, slots: "memoryview[float]", slot: int) -> None:
        self._slots, self._slot = slots, slot

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount`, >= 0."""
        self._slots[self._slot] += amount


class Gauge(Counter):
    """A number that is true now, for this process."""

    __slots__ = ()

    def dec(self, amount: float = 1.0) -> None:
        """Take `amount` off."""
        self._slots[self._slot] -= amount

    def set(self, value: float) -> None:
        """Replace the number."""
        self._slots[self._slot] = value


class Histogram:
    """Counts by upper bound, and the sum. Slots: the sum, then one count a bound, then the count past the last one."""

    __slots__ = ("_bounds", "_first", "_slots", "_sum")

    def __init__(self, slots: "memoryview[float]", slot: int, bounds: Sequence[float]) -> None:
        self._slots, self._sum, self._first, self._bounds = slots, slot, slot + 1, bounds

    def observe(self, value: float) -> None:
        """Count one value."""
        slots = self._slots
        slots[self._first + bisect_left(self._bounds, value)] += 1.0
        slots[self._sum] += value


class Store:
    """This process' numbers, in `folder`, which is made; without one in a temporary folder.

    That goes with the process, or is removed by the next one that needs such a folder.
    New series may be made from any thread; a series is counted from one thread only, for an addition is not atomic.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = None
        if folder is None:
            _remove_left(Path(tempfile.gettempdir()))
            self._temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY)
            folder = Path(self._temporary.name)
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._lock = threading.Lock()
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._segment = -1
        self._free = SEGMENT_SLOTS
        self._is_shared = False
        self._slots = memoryview(bytearray()).cast("d")
        # locked before it gets its name, so that no reader sees it without its owner
        hidden = folder / f"{self._name}.new"
        self._index = hidden.open("a", encoding="utf-8")
        fcntl.flock(self._index, fcntl.LOCK_EX)
        hidden.rename(folder / f"{self._name}.index")

    def counter(self, metric: Metric, labels: Sequence[str]) -> Counter:
        """A counter at 0."""
        return Counter(*self._allocate(metric, labels, 1))

    def gauge(self, metric: Metric, labels: Sequence[str]) -> Gauge:
        """A gauge at 0."""
        return Gauge(*self._allocate(metric, labels, 1))

    def histogram(self, metric: Metric, labels: Sequence[str]) -> Histogram:
        """A histogram without observations."""
        return Histogram(*self._allocate(metric, labels, len(metric.buckets) + 2), metric.buckets)

    def exemplars(self, metric: Metric, labels: Sequence[str]) -> Exemplars:
        """Those of a histogram's series, none yet."""
        at = self._allocate(metric, labels, SLOTS * (len(metric.buckets) + 1), are_exemplars=True)
        return Exemplars(*at, metric.buckets)

    def forget(self, model: str, version: str) -> None:
        """Let the series of a version leave what this process reports."""
        with self._lock:
            self._write({"gone": [model, version]})

    def close(self) -> None:
        """End this process' part: its counts stay in the folder, its gauges leave. What was counted from is void."""
        with suppress(OSError):
            self._index.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _allocate(
        self, metric: Metric, labels: Sequence[str], slots: int, *, are_exemplars: bool = False
    ) -> "tuple[memoryview[float], int]":
        with self._lock:
            if self._free + slots > SEGMENT_SLOTS:
                self._begin_segment()
            first = self._free
            self._free += slots
            if self._is_shared:
                kind = "exemplars" if are_exemplars else "name"
                self._write({kind: metric.name, "labels": list(labels), "at": [self._segment, first, slots]})
            return self._slots, first

    def _begin_segment(self) -> None:
        self._segment += 1
        self._free = 0
        path = self.folder / f"{self._name}.{self._segment}.values"
        # Its room is taken now: where the disk is full, a write to a page that has none would end the process.
        size = SEGMENT_SLOTS * SLOT_BYTES
        try:
            path.write_bytes(bytes(size))
            with path.open("r+b") as file:
                self._slots = memoryview(mmap.mmap(file.fileno(), size)).cast("d")
            self._is_shared = True
        except OSError:  # serving goes on without the counts of this segment
            path.unlink(missing_ok=True)
            self._slots = memoryview(bytearray(size)).cast("d")
            self._is_shared = False

    def _write(self, record: dict[str, object]) -> None:
        with suppress(OSError):  # on a full disk the record stays buffered and is written with the next one
            self._index.write(json.dumps(record) + "\n")
            self._index.flush()


def _remove_left(place: Path) -> None:
    """Remove this user's temporary folders of which no index is locked any more: their processes were killed."""
    for folder in place.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            indexes = list(folder.glob("*.index"))  # none yet: its process is about to make it
            if indexes and folder.lstat().st_uid == os.geteuid() and all(map(_is_free, indexes)):
                shutil.rmtree(folder)


def _is_free(index: Path) -> bool:
    with index.open("rb") as file, suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False
