"""Small batches of a packed encoder on a GPU as CUDA graphs: one launch instead of hundreds.

A GPU is done with a small batch sooner than Python has launched its kernels. A graph launches recorded ones at once, on
the memory that they were recorded with, and so for one shape: the line of tokens is filled up with a last row that is
nobody's, and rows that are not there are empty. What is filled up is computed, so graphs are for small batches only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

LEAST_LINE = 64
"""Tokens of the shortest line with a graph; each next one is twice as long."""
TOKENS_OF_A_ROW = 4
"""A graph has place for as many rows as its line has this many tokens; ours."""
WARM_UPS = 2
"""Runs before one is recorded, as libraries choose kernels and take memory at their first ones."""

Run = Callable[[], Any]
Record = Callable[[Run], tuple[Run, Any]]
"""Runs something once; returns how to run it again, and its output, which stands in the same memory each time."""


class CudaRecorder:
    """A `Record` for one GPU. Its graphs share their memory, as only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, run: Run) -> tuple[Run, Any]:
        """See `Record`. Raises what torch does where something cannot be recorded."""
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = run()
        self._pool = graph.pool()
        return graph.replay, output


class _Line:
    """The graph of lines of up to `size` tokens.

    inputs: (1, tokens) each, by name, as an example. packing: see `attention.Packing`. others: what else the encoder is
    called with, by name.
    """

    def __init__(
        self,
        plain: Callable[..., Any],
        record: Record,
        size: int,
        inputs: Mapping[str, torch.Tensor],
        packing: Any,
        others: Mapping[str, Any],
    ) -> None:
        self._inputs = {name: each.new_zeros((1, size)) for name, each in inputs.items()}
        self._cuts = inputs["input_ids"].new_full((size // TOKENS_OF_A_ROW + 2,), size, dtype=torch.int32)
        self._cuts[:-1] = 0
        packing = packing._replace(cuts=self._cuts, longest=size)
        self._again, self._output = record(lambda: plain(**self._inputs, **others, packing=packing))

    def __call__(self, inputs: Mapping[str, torch.Tensor], cuts: torch.Tensor) -> Any:
        """The encoder's output for a line, its states valid until the next one."""
        tokens = inputs["input_ids"].shape[1]
        for name, each in inputs.items():
            self._inputs[name][:, :tokens].copy_(each)  # behind them stand tokens of earlier lines
        self._cuts[: len(cuts)].copy_(cuts)
        self._cuts[len(cuts) : -1].fill_(tokens)
        self._again()
        output = type(self._output)(**self._output)
        output.last_hidden_state = self._output.last_hidden_state[:, :tokens]
        return output


class Replayed:
    """An encoder that is called with a line and its cuts, as `unpadded` calls it; it has a graph for short lines.

    longest: tokens of the longest line with a graph, 0 while there is none.
    """

    def __init__(self, plain: Callable[..., Any], record: Record) -> None:
        self.plain = plain
        self.longest = 0
        self._record = record
        self._lines: dict[tuple[int, tuple[str, ...]], _Line] = {}
        self._records = False

    def __call__(self, input_ids: torch.Tensor, *, packing: Any, **others: Any) -> Any:
        """The encoder's output."""
        cuts = packing.cuts
        if cuts is None:
            return self.plain(input_ids, packing=packing, **others)
        given = {"input_ids": input_ids, **others}
        inputs = {name: each for name, each in given.items() if isinstance(each, torch.Tensor)}
        least = max(LEAST_LINE, input_ids.shape[1], TOKENS_OF_A_ROW * (len(cuts) - 1))
        size = 1 << (least - 1).bit_length()
        key = size, tuple(inputs)
        if self._records and size <= self.longest and key not in self._lines:
            rest = {name: each for name, each in others.items() if name not in inputs}
            self._lines[key] = _Line(self.plain, self._record, size, inputs, packing, rest)
        if key in self._lines:
            return self._lines[key](inputs, cuts)
        return self.plain(input_ids, packing=packing, **others)

    def extend(self, calls: Sequence[Run]) -> None:
        """Have graphs of lines twice as long as the longest now, for what the calls call this with."""
        self.longest = max(LEAST_LINE, 2 * self.longest)
        self._records = True
        try:
            for call in calls:
                call()
        finally:
            self._records = False

    def shorten(self) -> None:
        """Undo the last `extend`."""
        self._lines = {key: line for key, line in self._lines.items() if key[0] < self.longest}
        self.longest = self.longest // 2 if self._lines else 0
