"""Batches side by side on a CPU: each lane is a thread that runs one forward pass at a time, all on the same model.

Two forward passes on a core each get more done than one after the other on both: no kernel waits for its slowest part,
and none has too little to divide. Only a graph runs so, as Python's modules would wait for each other.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from serving.wire.messages import Row

if TYPE_CHECKING:
    import numpy

    from serving.engine.forward_pass import Pending
    from serving.engine.model import Model


@dataclass(frozen=True)
class Split:
    """How an engine uses its cores. lanes: forward passes at a time. threads: of each.

    alone: threads of a row that has no company and at least `alone_tokens` tokens.
    """

    lanes: int = 1
    threads: int = 1
    alone: int = 1
    alone_tokens: int = 0

    def threads_for(self, rows: Sequence[Row], *, is_alone: bool) -> int:
        """Threads of a forward pass. is_alone: whether no other one runs."""
        return self.alone if is_alone and len(rows) == 1 and rows[0].length >= self.alone_tokens else self.threads


class Running:
    """A batch in a lane; as `forward_pass.Pending`."""

    def __init__(self, future: "Future[Pending]") -> None:
        self._future = future
        self.began = self.seconds = 0.0

    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        return self._future.done()

    def wait(self) -> "list[numpy.ndarray[Any, Any]]":
        """The arrays, first dimension rows; blocks until they are there, and raises what the model raised."""
        pending = self._future.result()
        self.began, self.seconds = pending.began, pending.seconds
        return pending.wait()


class Lanes:
    """The lanes of one engine. A batch that ends makes `fileno` readable, so that whoever polls it wakes up."""

    def __init__(self, model: "Model", split: Split) -> None:
        self._model = model
        self._split = split
        self.count = split.lanes
        self._pool = ThreadPoolExecutor(split.lanes, thread_name_prefix="headwaiter-lane")
        self._ended, self._end = os.pipe()
        os.set_blocking(self._ended, False)

    def launch(self, rows: Sequence[Row], *, is_alone: bool = False) -> Running:
        """Start a forward pass in a free lane. is_alone: whether no other one runs."""
        future = self._pool.submit(self._run, rows, self._split.threads_for(rows, is_alone=is_alone))
        future.add_done_callback(lambda _: os.write(self._end, b"\0"))
        return Running(future)

    def fileno(self) -> int:
        """What becomes readable."""
        return self._ended

    def clear(self) -> None:
        """Make `fileno` unreadable until another batch ends."""
        with suppress(BlockingIOError):
            os.read(self._ended, 4096)

    def close(self) -> None:
        """End the threads, once their batches are done."""
        self._pool.shutdown()
        os.close(self._ended)
        os.close(self._end)

    def _run(self, rows: Sequence[Row], threads: int) -> "Pending":
        torch.set_num_threads(threads)  # of the calling thread
        return self._model.launch(rows)


def make_lanes(model: "Model", split: Split) -> Lanes | None:
    """What runs a model's batches side by side, where the split says so."""
    return Lanes(model, split) if split.lanes > 1 else None
