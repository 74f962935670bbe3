"""The counts of all processes, read from their files and summed; the counts of processes that ended are kept in one
archive. Next: exposition, which writes the text.

A scrape holds the folder's lock shared; folding ended processes into the archive holds it alone. The new archive names
the files that it replaces before it becomes visible, so a crash in between neither loses nor doubles a count.
"""

import fcntl
import json
import os
import secrets
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitoring.exemplars import Exemplar, newest, read_exemplars
from monitoring.metrics import METRICS
from monitoring.store import SLOT_BYTES

Series = tuple[str, tuple[str, ...]]
"""(name, label values)"""
SampleValues = dict[Series, list[float]]
"""A histogram's sum and counts, or one number."""
Place = tuple[int, int, int]
"""Of a series in its process' files: segment, first slot, number of slots."""
Segments = dict[int, "array[float]"]
"""A process' numbers by segment."""
ARCHIVE = "archive"


@dataclass
class Reader:
    """One index, parsed as far as it has been written."""

    read_bytes: int = 0
    series: dict[Series, Place] = field(default_factory=dict)
    exemplars: dict[Series, Place] = field(default_factory=dict)
    replaces: list[str] = field(default_factory=list)

    def follow(self, path: Path) -> None:
        """Parse what was added since the last call; a line that is not whole yet is left for the next one."""
        with path.open("rb") as file:
            file.seek(self.read_bytes)
            added = file.read()
        whole = added.rfind(b"\n") + 1
        self.read_bytes += whole
        for line in added[:whole].splitlines():
            self._take(json.loads(line))

    def _take(self, record: dict[str, Any]) -> None:
        if "gone" in record:
            gone = tuple(record["gone"])
            for kept in (self.series, self.exemplars):
                for series in [series for series in kept if series[1][:2] == gone]:
                    del kept[series]
        elif "replaces" in record:
            self.replaces = record["replaces"]
        elif "exemplars" in record:
            self.exemplars[record["exemplars"], tuple(record["labels"])] = tuple(record["at"])
        elif record["name"] in METRICS:
            self.series[record["name"], tuple(record["labels"])] = tuple(record["at"])


class Merge:
    """The folder's reader. Not for use from several threads; several processes may each have one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[str, Reader] = {}

    def read(self) -> SampleValues:
        """The sums of all processes; gauges of the living ones."""
        with self._lock(fcntl.LOCK_SH):
            return self._sum(self._names())

    def read_with_exemplars(self) -> tuple[SampleValues, dict[Series, list[Exemplar | None]]]:
        """The sums, and of each bucket of a series the youngest exemplar; each file is read once.

        A series without exemplars is left out. Those of processes that ended last until `fold`.
        """
        total: SampleValues = {}
        found: dict[Series, list[Exemplar | None]] = {}
        with self._lock(fcntl.LOCK_SH):
            for name in self._names():
                reader = self._readers[name]
                segments = self._read_segments(name, (*reader.series.values(), *reader.exemplars.values()))
                self._add(total, name, segments)
                for series, values in _cut(segments, reader.exemplars):
                    if any(values):
                        some = read_exemplars(values)
                        found[series] = newest(found[series], some) if series in found else some
        return total, found

    def fold(self, models: Iterable[str], versions: Iterable[tuple[str, str]]) -> None:
        """Put what ended processes counted into the archive, for what is served now, and remove their files."""
        if not any(not self._is_alive(name) for name in self._names() if not name.startswith(ARCHIVE)):
            return
        with self._lock(fcntl.LOCK_EX):
            ended = [name for name in self._names() if name.startswith(ARCHIVE) or not self._is_alive(name)]
            ended += [name for name in self._replaced() if name not in ended]  # left by a fold that was cut short
            served = (set(models) | {""}, {*versions})
            kept = {
                series: values
                for series, values in self._sum(self._unreplaced(ended)).items()
                if METRICS[series[0]].kind != "gauge" and is_served(series, *served)
            }
            if self._write_archive(kept, ended):
                for name in ended:
                    self._remove(name)

    def _names(self) -> list[str]:
        names = sorted(path.stem for path in self._folder.glob("*.index"))
        for name in names:
            reader = self._readers.setdefault(name, Reader())
            reader.follow(self._folder / f"{name}.index")
        for name in [name for name in self._readers if name not in names]:
            del self._readers[name]
        return self._unreplaced(names)

    def _replaced(self) -> set[str]:
        return {name for reader in self._readers.values() for name in reader.replaces}

    def _unreplaced(self, names: Iterable[str]) -> list[str]:
        replaced = self._replaced()
        return [name for name in names if name not in replaced]

    def _sum(self, names: Iterable[str]) -> SampleValues:
        total: SampleValues = {}
        for name in names:
            self._add(total, name, self._read_segments(name, self._readers[name].series.values()))
        return total

    def _add(self, total: SampleValues, name: str, segments: Segments) -> None:
        """Add a process' series to those of others."""
        alive: bool | None = None
        for series, values in _cut(segments, self._readers[name].series):
            if METRICS[series[0]].kind == "gauge":
                alive = self._is_alive(name) if alive is None else alive
                if not alive:
                    continue
            known = total.get(series)
            if known is None:
                total[series] = values
            elif len(known) == len(values):
                total[series] = [one + other for one, other in zip(known, values, strict=True)]

    def _read_segments(self, name: str, places: Iterable[Place]) -> Segments:
        """A process' numbers, as far as these places need them."""
        ends: dict[int, int] = {}
        for segment, first, slots in places:
            ends[segment] = max(ends.get(segment, 0), first + slots)
        segments = {}
        for segment, end in ends.items():
            with (self._folder / f"{name}.{segment}.values").open("rb") as file:
                segments[segment] = array("d", file.read(end * SLOT_BYTES))
        return segments

    def _is_alive(self, name: str) -> bool:
        """Whether the owner of an index still holds its lock."""
        try:
            with (self._folder / f"{name}.index").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    def _write_archive(self, values: SampleValues, replaces: list[str]) -> bool:
        """Whether there was room for it; without, the ended processes' own files stay for a later fold."""
        name = f"{ARCHIVE}-{secrets.token_hex(8)}"
        slots = array("d")
        lines = [json.dumps({"replaces": replaces})]
        for (metric, labels), counts in values.items():
            lines.append(json.dumps({"name": metric, "labels": labels, "at": [0, len(slots), len(counts)]}))
            slots.extend(counts)
        numbers, hidden = self._folder / f"{name}.0.values", self._folder / f"{name}.new"
        try:
            numbers.write_bytes(slots.tobytes())
            hidden.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError:
            numbers.unlink(missing_ok=True)
            hidden.unlink(missing_ok=True)
            return False
        hidden.rename(self._folder / f"{name}.index")
        return True

    def _remove(self, name: str) -> None:
        (self._folder / f"{name}.index").unlink(missing_ok=True)
        for path in self._folder.glob(f"{name}.*.values"):
            path.unlink(missing_ok=True)

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, kind)
            yield
        finally:
            os.close(file)


def _cut(segments: Segments, places: Mapping[Series, Place]) -> Iterator[tuple[Series, list[float]]]:
    """The numbers of each series."""
    for series, (segment, first, slots) in places.items():
        yield series, segments[segment][first : first + slots].tolist()


def is_served(series: Series, models: set[str], versions: set[tuple[str, str]]) -> bool:
    """Whether a series is about something that is served now: a model, "" for none, and its version, "" for none."""
    name, labels = series
    names = METRICS[name].labels
    if "version" in names:
        return labels[:2] in versions or (labels[1] == "" and labels[0] in models)
    return "model" not in names or labels[0] in models
