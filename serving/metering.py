"""What is counted while serving: thin holders of the metrics' children, so that the hot path looks nothing up."""

import os
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

from monitoring.instruments import Instruments
from monitoring.metrics import MAX_LABELS, OTHER
from monitoring.store import Counter
from serving.table import SwapOutcome
from serving.trail import STAGES, Stages

MEMORY_SECONDS = 1.0
"""How often an engine looks at its memory."""
FREE_LABELS = 10
PAGE_BYTES = resource.getpagesize()


METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the folder that a server's processes count in; BentoML names and empties it."""


@cache
def instruments() -> Instruments:
    """This process' metrics, in the folder of METRICS_FOLDER."""
    folder = os.environ.get(METRICS_FOLDER)
    return Instruments(Path(folder) if folder else None)


def forget(model: str, version: str) -> None:
    """A version has left: let the series that this process counted for it leave too."""
    instruments().forget(model, version)


class LabelNames:
    """What is counted by name: a contract's labels, and what is left of them without a prefix such as `B-`.

    Anything else counts as OTHER; where the contract names no labels, the first FREE_LABELS words of the task do not.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._free = 0 if labels else FREE_LABELS
        known = labels[:MAX_LABELS]
        self._known = {*known, *(label.split("-", 1)[-1] for label in known)}

    def bounded(self, label: str) -> str:
        """The label, or OTHER."""
        if label not in self._known and self._free:
            self._free -= 1
            self._known.add(label)
        return label if label in self._known else OTHER


class EngineMeter:
    """What an engine counts of its version. device_bytes: what it holds on a GPU now."""

    def __init__(self, model: str, version: str, task: str, device_bytes: Callable[[], int] = lambda: 0) -> None:
        found = instruments()
        self.fields = {"model": model, "version": version, "task": task}
        self._rows = found.batch_rows.labels(model, version, task)
        self._tokens = found.batch_tokens.labels(model, version, task)
        self._lengths = found.row_tokens.labels(model, version, task)
        self._real = found.tokens_total.labels(model, version, task, "real")
        self._padding = found.tokens_total.labels(model, version, task, "padding")
        self._queue = found.queue_tokens.labels(model, version, task)
        self._host_memory = found.engine_memory_bytes.labels(model, version, task, "host")
        self._device_memory = found.engine_memory_bytes.labels(model, version, task, "device")
        self._device_bytes = device_bytes
        self._next_memory = 0.0

    def observe_batch(self, lengths: Sequence[int], tokens: int) -> None:
        """A batch whose rows have these numbers of tokens. tokens: with their padding."""
        real = sum(lengths)
        self._rows.observe(len(lengths))
        self._tokens.observe(tokens)
        self._real.inc(real)
        self._padding.inc(tokens - real)
        for length in lengths:
            self._lengths.observe(length)

    def observe_queue(self, tokens: int) -> None:
        """Tokens that wait now."""
        self._queue.set(tokens)

    def observe_memory(self) -> None:
        """Look at this process' memory, if that was not done just now."""
        now = time.monotonic()
        if now >= self._next_memory:
            self._next_memory = now + MEMORY_SECONDS
            self._host_memory.set(_resident_bytes())
            self._device_memory.set(self._device_bytes())


class FrontMeter:
    """What a front counts of a version, or with an empty one of requests that no version is charged with."""

    def __init__(self, model: str, version: str, task: str, labels: Sequence[str] = ()) -> None:
        self._found = instruments()
        self.fields = {"model": model, "version": version, "task": task}
        self._labels = (model, version, task)
        if version:
            self._in_progress = self._found.requests_in_progress.labels(*self._labels)
            self._confidence = self._found.confidence.labels(*self._labels)
            self._stages = tuple(self._found.stage_duration_seconds.labels(*self._labels, stage) for stage in STAGES)
        self._names = LabelNames(labels)
        self._durations = cache(
            lambda protocol, status: self._found.request_duration_seconds.labels(*self._labels, protocol, str(status))
        )
        self._predictions: dict[str, Counter] = {}

    def begin(self) -> None:
        """A request of this version arrived."""
        self._in_progress.inc()

    def leave(self) -> None:
        """It needs nothing more from this version."""
        self._in_progress.dec()

    def end(self, protocol: str, status: int, stages: Stages, reason: str = "") -> None:
        """A request got its answer, or an error with this reason. protocol: one of the server's own words."""
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

    def observe_predictions(self, predictions: Iterable[tuple[str, float]]) -> None:
        """The labels that were answered, with their scores in 0..1."""
        for label, score in predictions:
            bounded = self._names.bounded(label)
            child = self._predictions.get(bounded)
            if child is None:
                child = self._predictions[bounded] = self._found.predictions_total.labels(*self._labels, bounded)
            child.inc()
            self._confidence.observe(score)


@cache
def start_counting(model: str) -> None:
    """Begin the manager's series of a model at 0, so that a rate sees the first swap."""
    for outcome in get_args(SwapOutcome):
        instruments().swap_total.labels(model, outcome)
    for start in ("cold", "warm"):
        instruments().swap_duration_seconds.labels(model, start)


def count_swap(model: str, outcome: SwapOutcome) -> None:
    """The live version changed, or should have."""
    instruments().swap_total.labels(model, outcome).inc()


def time_swap(model: str, seconds: float, is_warm: bool) -> None:
    """Another version went live, so long after its alias moved. is_warm: whether it was loaded before that."""
    instruments().swap_duration_seconds.labels(model, "warm" if is_warm else "cold").observe(seconds)


def restarts(model: str, version: str, task: str) -> Counter:
    """Counts a version's restarted engines."""
    return instruments().engine_restarts_total.labels(model, version, task)


class GenerationMeter:
    """What a generating engine counts of its version."""

    def __init__(self, model: str, version: str, task: str) -> None:
        found, labels = instruments(), (model, version, task)
        self._first = found.time_to_first_token_seconds.labels(*labels)
        self._each = found.time_per_output_token_seconds.labels(*labels)
        self._prompt = found.prompt_tokens_total.labels(*labels)
        self._generated = found.generated_tokens_total.labels(*labels)
        self._running = found.running_rows.labels(*labels)
        self._waiting = found.waiting_rows.labels(*labels)
        self._cache_used = found.cache_used_tokens.labels(*labels)
        self._cache_limit = found.cache_limit_tokens.labels(*labels)
        self._preemptions = found.preemptions_total.labels(*labels)

    def observe_prompt(self, tokens: int) -> None:
        """A prompt was taken in."""
        self._prompt.inc(tokens)

    def observe_first_token(self, seconds: float) -> None:
        """A row got its first new token, so long after it arrived."""
        self._first.observe(seconds)

    def observe_tokens(self, tokens: int) -> None:
        """New tokens of all rows in one step."""
        self._generated.inc(tokens)

    def observe_end(self, tokens: int, seconds: float) -> None:
        """A row ended: `tokens` new ones after the first took `seconds`."""
        if tokens > 0:
            self._each.observe(seconds / tokens)

    def observe_batch(self, running: int, waiting: int, cache_used: int, cache_limit: int) -> None:
        """Rows that run and wait now, and tokens that the cache holds and can hold."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._cache_used.set(cache_used)
        self._cache_limit.set(cache_limit)

    def observe_preemption(self) -> None:
        """A row lost its place in the cache."""
        self._preemptions.inc()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except OSError:  # not Linux
        return 0
