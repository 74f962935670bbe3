"""CUDA graphs of small batches of a packed encoder: one launch instead of hundreds.

A GPU finishes a small batch sooner than Python launches its kernels. A graph launches recorded kernels at once, on the
memory that they were recorded with, and so for one shape: packed sequences are padded to a graph's size with one dummy
row, and unused rows are empty. As padding is computed, only small batches have graphs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings

import torch
from transformers.modeling_outputs import BaseModelOutput

from serving.engine.optimizations.attention import Packing

MIN_GRAPH_TOKENS = 64
"""Tokens of the smallest graph; each further one is twice as large."""
TOKENS_PER_ROW = 4
"""A graph of n tokens takes up to n / TOKENS_PER_ROW rows. Not measured; see bench/NOTES.md, "The forward pass on a
GPU"."""
WARM_UPS = 2
"""Runs before recording, as libraries choose kernels and take memory in their first ones."""

Run = Callable[[], BaseModelOutput]
RecordGraph = Callable[[Run], tuple[Callable[[], object], BaseModelOutput]]
"""Runs something once; returns how to run it again, and its output, which is in the same memory each time."""
GraphKey = tuple[int, tuple[str, ...]]
"""Tokens of a graph and the names of its inputs."""


@contextmanager
def _waits_raise() -> Iterator[None]:
    """What waits for the GPU raises RuntimeError, as it cannot be captured.

    Nor is it harmless to try: torch's allocator takes a capture that failed to go on for good, and frees no cached
    memory before it reports that memory ran out (CUDAGraph::capture_end of torch 2.13).
    """
    before = torch.cuda.get_sync_debug_mode()
    with catch_warnings(action="ignore"):  # torch warns that it does not find everything that waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class CudaRecorder:
    """A `RecordGraph` for one GPU. Its graphs share one memory pool, as only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, run: Run) -> tuple[Callable[[], object], BaseModelOutput]:
        """See `RecordGraph`. Raises what torch does where something cannot be recorded."""
        here = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device), torch.cuda.stream(here):  # a capture that fails leaves its own stream set
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    run()
                with _waits_raise():
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = run()
        self._pool = graph.pool()
        return graph.replay, output


class _EncoderGraph:
    """The graph of packed sequences of up to `size` tokens.

    inputs: (1, tokens) each, by name, as an example. others: the encoder's further arguments, by name.
    """

    def __init__(
        self,
        plain: Callable[..., BaseModelOutput],
        record: RecordGraph,
        size: int,
        inputs: Mapping[str, torch.Tensor],
        packing: Packing,
        others: Mapping[str, object],
    ) -> None:
        self._inputs = {name: each.new_zeros((1, size)) for name, each in inputs.items()}
        self._cu_seqlens = inputs["input_ids"].new_full((size // TOKENS_PER_ROW + 2,), size, dtype=torch.int32)
        self._cu_seqlens[:-1] = 0
        packing = packing._replace(cu_seqlens=self._cu_seqlens, max_seqlen=size)
        self._replay, self._output = record(lambda: plain(**self._inputs, **others, packing=packing))

    def __call__(self, inputs: Mapping[str, torch.Tensor], cu_seqlens: torch.Tensor) -> BaseModelOutput:
        """The encoder's output for a packed sequence; its states are valid until the next call."""
        tokens = inputs["input_ids"].shape[1]
        for name, each in inputs.items():
            self._inputs[name][:, :tokens].copy_(each)  # the tokens behind them are the dummy row's
        self._cu_seqlens[: len(cu_seqlens)].copy_(cu_seqlens)
        self._cu_seqlens[len(cu_seqlens) : -1].fill_(tokens)
        self._replay()
        output = type(self._output)(**self._output)
        output.last_hidden_state = self._output.last_hidden_state[:, :tokens]
        return output


class CudaGraphEncoder:
    """An encoder as `unpadded` calls it, which replays a graph where it has one and launches kernels where not.

    max_tokens: tokens of the largest graph, 0 while there is none.
    """

    def __init__(self, plain: Callable[..., BaseModelOutput], record: RecordGraph) -> None:
        self.plain = plain
        self.max_tokens = 0
        self._record = record
        self._graphs: dict[GraphKey, _EncoderGraph] = {}
        self._is_recording = False

    def __call__(self, input_ids: torch.Tensor, *, packing: Packing, **others: object) -> BaseModelOutput:
        """The encoder's output."""
        cu_seqlens = packing.cu_seqlens
        if cu_seqlens is None:
            return self.plain(input_ids, packing=packing, **others)
        given = {"input_ids": input_ids, **others}
        inputs = {name: each for name, each in given.items() if isinstance(each, torch.Tensor)}
        least = max(MIN_GRAPH_TOKENS, input_ids.shape[1], TOKENS_PER_ROW * (len(cu_seqlens) - 1))
        size = 1 << (least - 1).bit_length()
        key = size, tuple(inputs)
        if self._is_recording and size <= self.max_tokens and key not in self._graphs:
            rest = {name: each for name, each in others.items() if name not in inputs}
            self._graphs[key] = _EncoderGraph(self.plain, self._record, size, inputs, packing, rest)
        if key in self._graphs:
            return self._graphs[key](inputs, cu_seqlens)
        return self.plain(input_ids, packing=packing, **others)

    def record_larger(self, calls: Sequence[Run]) -> None:
        """Record graphs of twice as many tokens as the largest has, for the inputs that `calls` call this with."""
        self.max_tokens = max(MIN_GRAPH_TOKENS, 2 * self.max_tokens)
        self._is_recording = True
        try:
            for call in calls:
                call()
        finally:
            self._is_recording = False

    def drop_largest(self) -> None:
        """Undo the last `record_larger`."""
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] < self.max_tokens}
        self.max_tokens = self.max_tokens // 2 if self._graphs else 0
