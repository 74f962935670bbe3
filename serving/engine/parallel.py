"""Forward passes side by side on a CPU: threads that each run one forward pass at a time, on the same model.

Two forward passes on one core each get more done than one after the other on both cores: no kernel waits for its
slowest part, and none has too little work to divide. Only a TorchScript graph runs so, because Python modules would
wait for each other's GIL.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from serving.wire.messages import Row

if TYPE_CHECKING:
    from serving.engine.forward_pass import ForwardPass, GenericArray
    from serving.engine.model import Model


@dataclass(frozen=True)
class CpuPlan:
    """How an engine uses its cores. passes: forward passes at a time. threads: of each.

    single_row_threads: of a forward pass over one row of at least `single_row_tokens` tokens while no other one runs.
    """

    passes: int = 1
    threads: int = 1
    single_row_threads: int = 1
    single_row_tokens: int = 0

    def threads_for(self, rows: Sequence[Row], *, is_idle: bool) -> int:
        """Threads of a forward pass. is_idle: whether no other one runs."""
        is_single = is_idle and len(rows) == 1 and rows[0].length >= self.single_row_tokens
        return self.single_row_threads if is_single else self.threads


class PooledPass:
    """A forward pass in a pool, used as a `forward_pass.ForwardPass`."""

    def __init__(self, future: "Future[ForwardPass]") -> None:
        self._future = future
        self.began = self.seconds = self.processor_seconds = 0.0

    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        return self._future.done()

    def wait(self) -> "list[GenericArray]":
        """The arrays, first dimension rows; blocks until they are there, and raises what the model raised."""
        forward_pass = self._future.result()
        self.began, self.seconds = forward_pass.began, forward_pass.seconds
        self.processor_seconds = forward_pass.processor_seconds
        return forward_pass.wait()


class ForwardPool:
    """The threads of one engine. Its `fileno` becomes readable when a forward pass ends, which wakes a poll."""

    def __init__(self, model: "Model", plan: CpuPlan) -> None:
        self._model = model
        self._plan = plan
        self.count = plan.passes
        self._threads = ThreadPoolExecutor(plan.passes, thread_name_prefix="headwaiter-forward")
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._readable, False)

    def launch(self, rows: Sequence[Row], *, is_idle: bool = False) -> PooledPass:
        """Start a forward pass. is_idle: whether no other one runs."""
        future = self._threads.submit(self._run, rows, self._plan.threads_for(rows, is_idle=is_idle))
        future.add_done_callback(lambda _: os.write(self._writable, b"\0"))
        return PooledPass(future)

    def fileno(self) -> int:
        """The file descriptor to poll."""
        return self._readable

    def clear(self) -> None:
        """Make `fileno` unreadable until another forward pass ends."""
        with suppress(BlockingIOError):
            os.read(self._readable, 4096)

    def close(self) -> None:
        """End the threads once their forward passes are done."""
        self._threads.shutdown()
        os.close(self._readable)
        os.close(self._writable)

    def _run(self, rows: Sequence[Row], threads: int) -> "ForwardPass":
        torch.set_num_threads(threads)  # of the calling thread
        return self._model.launch(rows)


def make_pool(model: "Model", plan: CpuPlan) -> ForwardPool | None:
    """A pool for a plan of several forward passes at a time, else None."""
    return ForwardPool(model, plan) if plan.passes > 1 else None
