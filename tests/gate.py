"""A gate that holds back a decoder's steps, so that a test can act while a text is being generated."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.waiting import WAIT_SECONDS


class Gate:
    """Replaces `decoder.step`. Each step waits until `allow` or `open` lets it run, at most 60 s."""

    def __init__(self, decoder: Any) -> None:
        self._step, self._allowed = decoder.step, threading.Semaphore(0)

    def __call__(self, tokens: Any) -> Any:
        assert self._allowed.acquire(timeout=WAIT_SECONDS), "nobody opened the gate"
        return self._step(tokens)

    def allow(self, steps: int) -> None:
        """Let this many more steps run."""
        self._allowed.release(steps)

    def open(self) -> None:
        """Let all further steps run."""
        self._allowed.release(1 << 20)


@contextmanager
def gated(decoder: Any) -> Iterator[Gate]:
    """A gate before the decoder's steps inside the block; on leaving it all steps run again."""
    gate = Gate(decoder)
    decoder.step = gate
    try:
        yield gate
    finally:
        gate.open()
        del decoder.step
