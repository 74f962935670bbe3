"""A contract's baseline: the distribution of a model's answers to an evaluation sample, in the metrics' own buckets."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from monitoring.metrics import METRICS
from registry.contract import Baseline
from serving.runtime.instruments import LabelNames


class BaselineCount:
    """Counts answers in the metrics' buckets. labels: the contract's."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._names = LabelNames(labels)
        self._rows = 0
        self._labels: Counter[str] = Counter()
        self._buckets: dict[str, Counter[str]] = {"confidence": Counter(), "row_tokens": Counter()}

    def add(self, predictions: Iterable[tuple[str, float]], lengths: Iterable[int]) -> None:
        """Count one input. predictions: its labels with their scores. lengths: the tokens of its rows."""
        self._rows += 1
        for label, score in predictions:
            self._labels[self._names.bounded(label)] += 1
            self._count("confidence", score)
        for length in lengths:
            self._count("row_tokens", length)

    def shares(self) -> Baseline:
        """The distributions: each sums to 1, or is empty where nothing was counted."""
        return Baseline(
            rows=self._rows,
            labels=_shares(self._labels, sorted(self._labels)),
            **{name: _shares(counts, METRICS[name].bounds) for name, counts in self._buckets.items()},
        )

    def _count(self, name: str, value: float) -> None:
        metric = METRICS[name]
        self._buckets[name][metric.bounds[bisect_left(metric.buckets, value)]] += 1


def _shares(counts: Mapping[str, int], names: Iterable[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: counts.get(name, 0) / total for name in names} if total else {}
