"""What a front counts of each side of a rollout, in one small file, which the manager reads.

A file is one front's, of one step of one rollout: it begins at 0 with each step. A front that ends leaves its file, and
the one that replaces it has another, so no count is lost.
"""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from serving.wire.report_file import write_report

FOLDER = "rollouts"
BUCKETS_PER_DOUBLING = 16
"""Of the time to an answer: the bounds of a bucket differ by 4.4 %, which is how finely p50 and p99 are known."""
FIRST_SECONDS = 0.0001
LAST_BUCKET = 20 * BUCKETS_PER_DOUBLING
"""Whatever takes longer than 105 s is counted together."""


RATIOS_PER_DOUBLING = 8
"""Of a ratio of times: the bounds of a bucket differ by 9 %."""
FIRST_RATIO = 0.25
LAST_RATIO_BUCKET = 8 * RATIOS_PER_DOUBLING
"""Ratios above 64 are counted together: so few buckets fit a tag as they are."""


class SideCounts(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The requests of one side. errors: those that failed on the server's side; refusals: those that found no room.

    times: bucket (`time_bucket`) → answers that took as long. labels: label → how often it was answered; those past
    MAX_LABELS together as OTHER, as in `monitoring.metrics`. confidence: the sum of their scores in 0..1.
    """

    requests: int = 0
    errors: int = 0
    refusals: int = 0
    times: dict[int, int] = {}
    labels: dict[str, int] = {}
    confidence: float = 0.0

    def add(self, other: "SideCounts") -> None:
        """Count what `other` counted."""
        self.requests += other.requests
        self.errors += other.errors
        self.refusals += other.refusals
        self.times = dict(Counter(self.times) + Counter(other.times))
        self.confidence += other.confidence
        self.labels = dict(Counter(self.labels) + Counter(other.labels))


class RolloutCounts(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Both sides of one step. compared: shadows that were answered; agreement: the sum of their shares in 0..1.

    distance: the sum of the distances of their scores. dropped: shadows that found no room, or were late. failed:
    shadows that the candidate could not answer; each counts as an agreement of 0. slowness: how many forward
    passes for shadows have a ratio, of the candidate's time to the stable version's, in each bucket (`ratio_bucket`).
    """

    rollout: str
    step: int
    stable: SideCounts = msgspec.field(default_factory=SideCounts)
    candidate: SideCounts = msgspec.field(default_factory=SideCounts)
    compared: int = 0
    agreement: float = 0.0
    distance: float = 0.0
    dropped: int = 0
    failed: int = 0
    slowness: dict[int, int] = {}

    def took(self, ratio: float) -> None:
        """Count how many times as long the candidate computed for a shadow."""
        bucket = ratio_bucket(ratio)
        self.slowness[bucket] = self.slowness.get(bucket, 0) + 1

    def add(self, other: "RolloutCounts") -> None:
        """Count what `other` counted."""
        self.stable.add(other.stable)
        self.candidate.add(other.candidate)
        self.compared += other.compared
        self.agreement += other.agreement
        self.distance += other.distance
        self.dropped += other.dropped
        self.failed += other.failed
        self.slowness = dict(Counter(self.slowness) + Counter(other.slowness))


def time_bucket(seconds: float) -> int:
    """The bucket of a time; those of longer times are higher. 0 holds all up to FIRST_SECONDS."""
    if seconds <= FIRST_SECONDS:
        return 0
    return min(LAST_BUCKET, math.ceil(BUCKETS_PER_DOUBLING * math.log2(seconds / FIRST_SECONDS)))


def bucket_seconds(bucket: int) -> float:
    """The upper bound of a bucket."""
    return float(FIRST_SECONDS * 2 ** (bucket / BUCKETS_PER_DOUBLING))


def ratio_bucket(ratio: float) -> int:
    """The bucket of a ratio; those of larger ones are higher. 0 holds all up to FIRST_RATIO."""
    if ratio <= FIRST_RATIO:
        return 0
    return math.ceil(min(LAST_RATIO_BUCKET, RATIOS_PER_DOUBLING * math.log2(ratio / FIRST_RATIO)))


def bucket_ratio(bucket: int) -> float:
    """The upper bound of a bucket, and the lower bound of the next one."""
    return float(FIRST_RATIO * 2 ** (bucket / RATIOS_PER_DOUBLING))


def sum_counts(parts: Iterable[RolloutCounts], rollout: str, step: int) -> RolloutCounts:
    """All that was counted of this step."""
    total = RolloutCounts(rollout=rollout, step=step)
    for part in parts:
        if (part.rollout, part.step) == (rollout, step):
            total.add(part)
    return total


def write_counts(run: Path, front: str, counts: RolloutCounts) -> None:
    """Replace the front's file of this step. Raises OSError."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    write_report(folder / f"{counts.rollout}-{counts.step}-{front}.json", counts)


def read_counts(run: Path, rollout: str, step: int) -> list[RolloutCounts]:
    """What the fronts of this server have counted of this step."""
    found = []
    for path in (run / FOLDER).glob(f"{rollout}-{step}-*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=RolloutCounts))
        except (OSError, msgspec.DecodeError):  # replaced by a front of another release, or on a full disk
            continue
    return found


def remove_counts(run: Path, rollout: str, keep_step: int | None = None) -> None:
    """Remove the files of a rollout, but those of `keep_step`."""
    for path in (run / FOLDER).glob(f"{rollout}-*.json"):
        if keep_step is None or not path.name.startswith(f"{rollout}-{keep_step}-"):
            path.unlink(missing_ok=True)
