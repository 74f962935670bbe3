"""One forward pass on a model's device, under way or finished."""

import time
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray

GenericArray = NDArray[numpy.generic]

MAX_TOLD_THREADS = 2
"""Of a pass, whose own thread does the less of it the more there are. Two take 1.2 to 1.5 times off it; four took 3."""


@dataclass
class ForwardPass:
    """A forward pass. arrays: host tensors, valid once `wait` returned. event: of a GPU, None on a CPU.

    began: seconds of `time.perf_counter`. seconds: how long it took, on a GPU known once `wait` returned.
    processor_seconds: of these, those in which its thread had a processor; 0 on a GPU, and beyond MAX_TOLD_THREADS.
    """

    arrays: tuple[torch.Tensor, ...]
    event: torch.cuda.Event | None
    began: float
    seconds: float = 0.0
    processor_seconds: float = 0.0

    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        return self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def wait(self) -> list[GenericArray]:
        """The arrays, first dimension rows; blocks until the device is done, and raises what it raised."""
        if self.event is not None:
            self.event.synchronize()
            self.seconds = time.perf_counter() - self.began
        return [array.numpy() for array in self.arrays]
