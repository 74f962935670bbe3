"""The content of `/metrics`: what all processes counted, and what is true now. Next: text_formats, which writes it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.gpus import read_gpus
from monitoring.merge import Merge, Series, is_served
from monitoring.metrics import METRICS
from monitoring.text_formats import OPEN_METRICS, TEXT, to_open_metrics, to_text


@dataclass(frozen=True)
class BaselineShares:
    """Shares in 0..1 of an evaluation sample: by label, and by the bounds of the metrics confidence and row_tokens."""

    labels: Mapping[str, float] = field(default_factory=dict)
    confidence: Mapping[str, float] = field(default_factory=dict)
    row_tokens: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionStatus:
    """A version at the time of a scrape. aliases: those that it serves. dtype, device: empty while it loads.

    queue_limit_tokens: what its queues take in all, 0 while it loads. baseline: of its contract.
    """

    model: str
    version: str
    task: str
    state: str
    aliases: tuple[str, ...]
    head: str
    dtype: str
    device: str
    queue_limit_tokens: int = 0
    baseline: BaselineShares = field(default_factory=BaselineShares)


@dataclass(frozen=True)
class RolloutStatus:
    """A rollout at the time of a scrape. version: the candidate. verdicts: guard → 1 pass, 0 inconclusive, -1 fail.

    waiting_seconds: how much longer than planned it has been in its step.
    """

    model: str
    version: str
    task: str
    step: int
    weight: float
    waiting_seconds: float
    verdicts: Mapping[str, int]


@dataclass(frozen=True)
class ServerStatus:
    """The server at the time of a scrape. live: whether each model's live version answers."""

    versions: tuple[VersionStatus, ...]
    live: Mapping[str, bool]
    registry_is_up: bool
    manager_silence_seconds: float
    rollouts: tuple[RolloutStatus, ...] = ()


@dataclass(frozen=True)
class Total:
    """A histogram's series. sum: of its observations, in the metric's unit. count: their number."""

    name: str
    labels: Mapping[str, str]
    sum: float
    count: int


class Exposition:
    """Renders the folder in which this server's processes count. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._merge = Merge(folder)

    def render(self, status: ServerStatus, form: str = TEXT) -> bytes:
        """The text in this format, of what `status` names only. Reads files: some milliseconds."""
        models = set(status.live) | {""}
        versions = {(version.model, version.version) for version in status.versions}
        if status.live:  # before the first table nothing is known to have left
            self._merge.fold(models, versions)
        if form == OPEN_METRICS:
            counted, exemplars = self._merge.read_with_exemplars()
        else:
            counted, exemplars = self._merge.read(), {}
        values = {series: found for series, found in counted.items() if is_served(series, models, versions)}
        values.update(_snapshots(status))
        if form == OPEN_METRICS:
            return to_open_metrics(values, exemplars).encode()
        return to_text(values).encode()

    def totals(self) -> list[Total]:
        """The histograms of all processes. Reads files: some milliseconds."""
        return [
            Total(name, dict(zip(METRICS[name].labels, labels, strict=True)), numbers[0], int(sum(numbers[1:])))
            for (name, labels), numbers in self._merge.read().items()
            if METRICS[name].kind == "histogram"
        ]


def _snapshots(status: ServerStatus) -> Iterator[tuple[Series, list[float]]]:
    yield ("registry_up", ()), [float(status.registry_is_up)]
    yield ("manager_silence_seconds", ()), [status.manager_silence_seconds]
    for model, is_live in status.live.items():
        yield ("model_live", (model,)), [float(is_live)]
    for gpu in read_gpus():
        yield ("gpu_memory_bytes", (gpu.name, "used")), [float(gpu.used_bytes)]
        yield ("gpu_memory_bytes", (gpu.name, "total")), [float(gpu.total_bytes)]
        yield ("gpu_utilization_ratio", (gpu.name,)), [gpu.utilization]
    yield from _rollouts(status.rollouts)
    for version in status.versions:
        labels = (version.model, version.version, version.task)
        for alias in version.aliases or ("",):
            yield ("model_info", (*labels, alias, version.head, version.dtype, version.device)), [1.0]
        yield ("model_state", (*labels, version.state)), [1.0]
        if version.queue_limit_tokens:
            yield ("queue_limit_tokens", labels), [float(version.queue_limit_tokens)]
        for label, share in version.baseline.labels.items():
            yield ("baseline_label_share", (*labels, label)), [share]
        for name in ("confidence", "row_tokens"):
            shares, bounds = getattr(version.baseline, name), METRICS[name].bounds
            if shares.keys() == set(bounds):  # a contract of a release with other buckets cannot be compared
                for bound, share in shares.items():
                    yield (f"baseline_{name}_share", (*labels, bound)), [share]


def _rollouts(rollouts: Iterable[RolloutStatus]) -> Iterator[tuple[Series, list[float]]]:
    for rollout in rollouts:
        labels = (rollout.model, rollout.version, rollout.task)
        yield ("rollout_step", labels), [float(rollout.step)]
        yield ("rollout_weight", labels), [rollout.weight]
        yield ("rollout_waiting_seconds", labels), [rollout.waiting_seconds]
        for guard, verdict in rollout.verdicts.items():
            yield ("rollout_verdict", (*labels, guard)), [float(verdict)]
