"""A front's metrics. Their children are looked up once, not for each request."""

import time
from collections.abc import Iterable, Sequence
from functools import cache

from monitoring.store import Counter
from serving.front.request_context import STAGES, ProtocolName, StageTimes
from serving.runtime.instruments import LabelNames, instruments


def count_cold(model: str) -> None:
    """A request has to wait until its version is loaded."""
    instruments().cold_requests_total.labels(model).inc()


class FrontMeter:
    """Counts the requests of one version; with an empty version, requests that reached none."""

    def __init__(self, model: str, version: str, task: str, labels: Sequence[str] = ()) -> None:
        self._found = instruments()
        self.fields = {"model": model, "version": version, "task": task}
        self._labels = (model, version, task)
        if version:
            self._found.cold_requests_total.labels(model)  # begins at 0, so that a rate sees the first one
            self._in_progress = self._found.requests_in_progress.labels(*self._labels)
            self._confidence = self._found.confidence.labels(*self._labels)
            self._stages = tuple(self._found.stage_duration_seconds.labels(*self._labels, stage) for stage in STAGES)
        self._names = LabelNames(labels)
        self._durations = cache(
            lambda protocol, status: self._found.request_duration_seconds.labels(*self._labels, protocol, str(status))
        )
        self._predictions: dict[str, Counter] = {}

    def begin(self) -> None:
        """A request is in progress at this version."""
        self._in_progress.inc()

    def leave(self) -> None:
        """A request is no longer in progress at this version."""
        self._in_progress.dec()

    def end(self, protocol: ProtocolName, status: int, stages: StageTimes, reason: str = "") -> None:
        """Count a request that ended, with an answer or with an error of this reason."""
        self._durations(protocol, status).observe(stages.ended - stages.began)
        if reason:
            self._found.rejected_total.labels(*self._labels, reason).inc()
        else:
            encode, queue, forward, decode = self._stages
            took = stages.seconds()
            encode.observe(took[0])
            queue.observe(took[1])
            forward.observe(took[2])
            decode.observe(took[3])

    def note_trace(self, protocol: ProtocolName, status: int, stages: StageTimes, trace_id: int) -> None:
        """Let the bucket in which a request was counted lead to its trace."""
        exemplars = self._found.request_exemplars.labels(*self._labels, protocol, str(status))
        exemplars.note(stages.ended - stages.began, trace_id, time.time())

    def drop_shadow(self) -> None:
        """Count a request that this version, a candidate, was to answer, too, and did not."""
        self._found.rollout_shadow_dropped_total.labels(*self._labels).inc()

    def compare_shadow(self, agreement: float) -> None:
        """Count a request that this version, a candidate, answered, too. agreement: with the client's answer, 0..1."""
        self._found.rollout_shadow_total.labels(*self._labels).inc()
        self._found.rollout_agreement.labels(*self._labels).observe(agreement)

    def observe_predictions(self, predictions: Iterable[tuple[str, float]]) -> None:
        """Count the predicted labels, with their scores in 0..1."""
        for label, score in predictions:
            child = self._predictions.get(label) or self._bounded(label)
            child.inc()
            self._confidence.observe(score)

    def _bounded(self, label: str) -> Counter:
        bounded = self._names.bounded(label)
        child = self._predictions.get(bounded)
        if child is None:
            child = self._predictions[bounded] = self._found.predictions_total.labels(*self._labels, bounded)
        return child
