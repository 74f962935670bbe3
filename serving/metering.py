"""What is counted while serving: thin holders of the metrics' children, so that the hot path looks nothing up."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monitoring.metrics import Instruments


@cache
def instruments() -> "Instruments":
    """This process' metrics. The first call imports prometheus_client, after the server has set its directory."""
    from monitoring.metrics import Instruments

    return Instruments()


class EngineMeter:
    """What an engine counts of its version."""

    def __init__(self, model: str, version: str, task: str) -> None:
        found = instruments()
        self._rows = found.batch_rows.labels(model, version, task)
        self._tokens = found.batch_tokens.labels(model, version, task)
        self._real = found.tokens_total.labels(model, version, task, "real")
        self._padding = found.tokens_total.labels(model, version, task, "padding")
        self._queue = found.queue_tokens.labels(model, version, task)
        self._last_queue = -1

    def observe_batch(self, lengths: Sequence[int]) -> None:
        """A batch whose rows have these numbers of tokens."""
        padded, real = len(lengths) * max(lengths), sum(lengths)
        self._rows.observe(len(lengths))
        self._tokens.observe(padded)
        self._real.inc(real)
        if padded > real:
            self._padding.inc(padded - real)

    def observe_queue(self, tokens: int) -> None:
        """Tokens that wait now."""
        if tokens != self._last_queue:
            self._queue.set(tokens)
            self._last_queue = tokens


class FrontMeter:
    """What a front counts of a version. Times are in seconds."""

    def __init__(self, model: str, version: str, task: str) -> None:
        self._found = instruments()
        self._labels = (model, version, task)
        self._in_progress = self._found.requests_in_progress.labels(*self._labels)
        self._confidence = self._found.confidence.labels(*self._labels)
        self._stages = tuple(
            self._found.stage_duration_seconds.labels(*self._labels, stage)
            for stage in ("encode", "queue", "forward", "decode")
        )
        self._durations = cache(lambda *labels: self._found.request_duration_seconds.labels(*self._labels, *labels))
        self._predictions = cache(lambda label: self._found.predictions_total.labels(*self._labels, label))

    def begin(self) -> None:
        """A request of this version arrived."""
        self._in_progress.inc()

    def end(self, protocol: str, status: int, seconds: float) -> None:
        """It was answered."""
        self._in_progress.dec()
        self._durations(protocol, str(status)).observe(seconds)

    def observe_stages(self, *seconds: float) -> None:
        """encode, queue, forward, decode of an answered request."""
        for child, value in zip(self._stages, seconds, strict=True):
            child.observe(value)

    def observe_predictions(self, predictions: Iterable[tuple[str, float]]) -> None:
        """The labels that were answered, with their scores in 0..1."""
        for label, score in predictions:
            self._predictions(label).inc()
            self._confidence.observe(score)

    def reject(self, reason: str) -> None:
        """A request that was not answered, by its error's reason."""
        self._found.rejected_total.labels(*self._labels, reason).inc()
