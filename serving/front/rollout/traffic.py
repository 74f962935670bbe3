"""A front's share of a rollout: chooses the side of each request, and counts what became of it.

Runs in the front's event loop. The counts of each step are kept in a file (`wire.rollout_counts`), which is written now
and then, and when the step is over.
"""

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

import msgspec

from monitoring.metrics import MAX_LABELS, OTHER
from serving.errors import ClientGone, QueueFull
from serving.front.loaded_version import LoadedVersion
from serving.front.rollout.split import is_candidates
from serving.wire.rollout_counts import RolloutCounts, SideCounts, time_bucket, write_counts
from serving.wire.routing_table import ModelEntry, RolloutEntry

WRITE_SECONDS = 0.5
"""Between two writes of the counts. Untuned: a write takes a fraction of a millisecond."""

logger = logging.getLogger("headwaiter.front")


class RolloutSide:
    """One side of a rollout, for the requests that it answers."""

    def __init__(self, name: str, counts: SideCounts) -> None:
        """name: "stable" or "candidate"."""
        self.name = name
        self._counts = counts

    def end(self, status: int, reason: str, seconds: float) -> None:
        """Count a request that ended so; one whose client left, or did wrong, tells nothing of the version."""
        if reason == ClientGone.reason or (status < 500 and reason not in ("", QueueFull.reason)):
            return
        counts = self._counts
        counts.requests += 1
        if reason == QueueFull.reason:
            counts.refusals += 1
        elif status >= 500:
            counts.errors += 1
        elif not reason:
            bucket = time_bucket(seconds)
            counts.times[bucket] = counts.times.get(bucket, 0) + 1

    def predicted(self, predictions: Sequence[tuple[str, float]]) -> None:
        """Count answered labels, with their scores in 0..1; one of a model that computes no number counts as 0."""
        labels = self._counts.labels
        for label, score in predictions:
            self._counts.confidence += score if isfinite(score) else 0.0
            name = label if label in labels or len(labels) < MAX_LABELS else OTHER
            labels[name] = labels.get(name, 0) + 1


class ModelTraffic:
    """The rollout of one model in one step."""

    def __init__(self, entry: RolloutEntry) -> None:
        self.entry = entry
        self.file = f"{os.getpid()}-{secrets.token_hex(3)}"
        """Name of the counts' file among those of the step: of one that is taken up again there is another."""
        self.counts = RolloutCounts(
            rollout=entry.id,
            step=entry.step,
            stable=SideCounts(times={}, labels={}),
            candidate=SideCounts(times={}, labels={}),
        )
        self.stable = RolloutSide("stable", self.counts.stable)
        self.candidate = RolloutSide("candidate", self.counts.candidate)

    def is_candidates(self, key: bytes) -> bool:
        """Whether a request with this key is the candidate's."""
        return is_candidates(self.entry.salt, key, self.entry.weight)

    def side(self, loaded: LoadedVersion) -> RolloutSide | None:
        """The side of a version, None for one that has no part in the rollout."""
        if loaded.version == self.entry.candidate:
            return self.candidate
        return self.stable if loaded.version == self.entry.stable else None


class RolloutTraffic:
    """The rollouts of one front. `follow` is to be called with each routing table, `write` regularly."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._models: dict[str, ModelTraffic] = {}
        self._changed: dict[str, bytes] = {}
        self._next_write = 0.0

    def follow(self, models: Mapping[str, ModelEntry]) -> None:
        """Take up the rollouts of a table. A step that is over is written; a new one begins at 0."""
        for name in self._models.keys() - {name for name, model in models.items() if model.rollout is not None}:
            self._end(self._models.pop(name))
        for name, model in models.items():
            if model.rollout is None:
                continue
            known = self._models.get(name)
            if known is not None and (known.entry.id, known.entry.step) == (model.rollout.id, model.rollout.step):
                known.entry = model.rollout
                continue
            if known is not None:
                self._end(known)
            self._models[name] = ModelTraffic(model.rollout)

    def find(self, name: str, version: str | None, model: ModelEntry | None) -> ModelTraffic | None:
        """The rollout that a request for `name` or `name@alias` takes part in; None for one that names a version."""
        own, _, alias = name.partition("@")
        found = self._models.get(own)
        if found is None or version or model is None:
            return None
        served = alias or next(iter(model.serves), "").partition("@")[2]
        return found if served == found.entry.alias else None

    @property
    def is_idle(self) -> bool:
        """Whether there is no rollout, as most of the time."""
        return not self._models

    def write(self, now: float) -> None:
        """Write the counts that changed, if it is time to."""
        if self._models and now >= self._next_write:
            self._next_write = now + WRITE_SECONDS
            for model in self._models.values():
                self._put(model)

    def close(self) -> None:
        """Write all counts."""
        self.follow({})

    def _end(self, model: ModelTraffic) -> None:
        self._put(model)
        self._changed.pop(model.file, None)

    def _put(self, model: ModelTraffic) -> None:
        packed = msgspec.msgpack.encode(model.counts)
        if self._changed.get(model.file) == packed:
            return
        try:
            write_counts(self._run, model.file, model.counts)
            self._changed[model.file] = packed
        except OSError as error:  # a full disk: the leader judges by what it has
            logger.error("the counts of a rollout cannot be written: %s", error)
