"""Holds a decoder's steps, so that what must happen while a text is written does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Gate:
    """Stands before a decoder's steps: so many may pass as it was told."""

    def __init__(self, decoder: Any) -> None:
        self._step, self._allowed = decoder.step, threading.Semaphore(0)

    def __call__(self, tokens: Any) -> Any:
        assert self._allowed.acquire(timeout=60), "nobody opened the gate"
        return self._step(tokens)

    def allow(self, steps: int) -> None:
        """So many more may pass."""
        self._allowed.release(steps)

    def open(self) -> None:
        """All may pass."""
        self._allowed.release(1 << 20)


@contextmanager
def gated(decoder: Any) -> Iterator[Gate]:
    """The decoder with a gate within the block, which is open after it."""
    gate = Gate(decoder)
    decoder.step = gate
    try:
        yield gate
    finally:
        gate.open()
        del decoder.step
