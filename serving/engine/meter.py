"""An engine's metrics, with the children of its labels looked up once, not on the hot path."""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.runtime.instruments import instruments

MEMORY_SECONDS = 1.0
"""How often an engine measures its memory."""
PAGE_BYTES = resource.getpagesize()


class EngineMeter:
    """The metrics of every engine. device_bytes: measures the memory that it holds on a GPU."""

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

    def observe_batch(self, lengths: Sequence[int], tokens: int, reused: int = 0) -> None:
        """A batch ran. lengths: tokens of its rows. tokens: of the batch with padding, without the `reused` ones."""
        real = sum(lengths) - reused
        self._rows.observe(len(lengths))
        self._tokens.observe(tokens)
        self._real.inc(real)
        self._padding.inc(tokens - real)
        for length in lengths:
            self._lengths.observe(length)

    def observe_queue(self, tokens: int) -> None:
        """Tokens that wait in the queue now."""
        self._queue.set(tokens)

    def observe_memory(self) -> None:
        """Measure this process's memory, at most once in `MEMORY_SECONDS`."""
        now = time.monotonic()
        if now >= self._next_memory:
            self._next_memory = now + MEMORY_SECONDS
            self._host_memory.set(_resident_bytes())
            self._device_memory.set(self._device_bytes())


class GenerationMeter:
    """The further metrics of an engine whose task generates."""

    def __init__(self, model: str, version: str, task: str) -> None:
        found, labels = instruments(), (model, version, task)
        self._first = found.time_to_first_token_seconds.labels(*labels)
        self._each = found.time_per_output_token_seconds.labels(*labels)
        self._prompt = found.prompt_tokens_total.labels(*labels)
        self._reused = found.reused_prompt_tokens_total.labels(*labels)
        self._generated = found.generated_tokens_total.labels(*labels)
        self._running = found.running_rows.labels(*labels)
        self._waiting = found.waiting_rows.labels(*labels)
        self._cache_used = found.cache_used_tokens.labels(*labels)
        self._cache_limit = found.cache_limit_tokens.labels(*labels)
        self._preemptions = found.preemptions_total.labels(*labels)

    def observe_prompt(self, tokens: int, reused: int) -> None:
        """Prompts were prefilled. tokens: of all of them. reused: of these, the ones that were not computed."""
        self._prompt.inc(tokens)
        self._reused.inc(reused)

    def observe_first_token(self, seconds: float) -> None:
        """A row got its first new token. seconds: since it arrived."""
        self._first.observe(seconds)

    def observe_tokens(self, tokens: int) -> None:
        """Rows got new tokens in one step. tokens: of all of them."""
        self._generated.inc(tokens)

    def observe_end(self, tokens: int, seconds: float) -> None:
        """A row ended. tokens: new ones after the first. seconds: for these."""
        if tokens > 0:
            self._each.observe(seconds / tokens)

    def observe_batch(self, running: int, waiting: int, cache_used: int, cache_limit: int) -> None:
        """running, waiting: rows now. cache_used, cache_limit: tokens in the cache now, and at most."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._cache_used.set(cache_used)
        self._cache_limit.set(cache_limit)

    def observe_preemption(self) -> None:
        """A running row was preempted."""
        self._preemptions.inc()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except OSError:  # not Linux
        return 0
