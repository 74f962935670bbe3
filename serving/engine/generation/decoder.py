"""A model and the rows that it generates for. Rows are prefilled by a forward pass over their tokens, take steps of one
token together, and are removed between steps.

A `CausalDecoder` has a decoder alone. The rows of a `Seq2SeqDecoder` also have the keys and values of the encoder's
output. Both must equal transformers' `generate`; `serving.engine.generation.verification` checks that before they are
used.
"""

import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy
import torch
from torch.nn.functional import embedding
from transformers.cache_utils import Cache

from serving.engine.generation.kv_cache import RowCache
from serving.engine.optimizations.packing import bucket_size
from serving.engine.optimizations.torchscript import TracedModule

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

WIDTH_STEP = 8
"""Bucketed prompt widths are multiples of this. Untuned: keeps the number of kernels small that oneDNN compiles."""
POSITION_TABLES = ("embed_positions", "position_embeddings", "wpe")
"""What transformers (5.23) calls a table of positions in a decoder."""


class StepFailed(Exception):
    """The steps of some rows raised, the others' did not.

    errors: what was raised, by the row's number. logits: as `Decoder.step` returns them; those of failed rows mean
    nothing.
    """

    def __init__(self, errors: Mapping[int, Exception], logits: torch.Tensor) -> None:
        super().__init__(f"the steps of {len(errors)} rows failed")
        self.errors = errors
        self.logits = logits


class Decoder(ABC):
    """Rows are numbered in the order of their prefill; `remove` returns how that changes. Not for several threads.

    max_width: prompts up to this length are padded to bucketed widths, see `width`; 0: to the longest prompt.
    max_new_tokens: the most tokens that the model has positions for, None for no such bound. start_token: of the
    decoder's input in a model with an encoder. reused: tokens of each row of the last prefill that were not computed,
    because their keys and values were known; empty where a decoder computes all.
    """

    def __init__(self, module: "PreTrainedModel", pad_token_id: int) -> None:
        self.module = module
        self.device = module.device
        self._pad = pad_token_id
        self._arguments = set(inspect.signature(module.forward).parameters)
        self._caches: list[RowCache] = []
        self._positions: torch.Tensor | None = None
        self._hook: RemovableHandle | None = None
        self._graph: TracedModule | None = None
        self._tells_positions = self._hook_positions()
        self.max_new_tokens = find_last_position(module) if module.config.is_encoder_decoder else None
        self.max_width = 0
        self.reused: list[int] = []
        config = module.generation_config
        start = config.decoder_start_token_id  # as `generate`, which reads nothing of config.json here (5.23)
        self.start_token: int = config.bos_token_id if start is None else start

    @property
    def is_traced(self) -> bool:
        """Whether steps run as a TorchScript graph."""
        return self._graph is not None

    @property
    def may_search_together(self) -> bool:
        """Whether `generate` gives prompts of different lengths in one batch what it gives to each alone.

        It does where it pads them as this decoder does, which is verified; not where only the hook tells the model the
        positions in a padded prompt.
        """
        return not self._tells_positions

    @property
    def cached_tokens(self) -> int:
        """Cache positions in use, padding included."""
        return sum(cache.layout.tokens for cache in self._caches)

    @property
    def token_bytes(self) -> int:
        """Bytes of one cache position; 0 before the first prefill."""
        return max((cache.token_bytes for cache in self._caches), default=0)

    def computed_tokens(self, tokens: Sequence[int], caller: str) -> int:
        """How many tokens of a row a prefill of it alone computes. caller: as of `prefill`."""
        del caller
        return len(tokens)

    @abstractmethod
    def prefill(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], callers: Sequence[str] = ()
    ) -> torch.Tensor:
        """Add rows by a forward pass over their tokens; the logits of each one's next token, (rows, vocabulary).

        written: tokens generated already, of rows that were preempted. callers: of each row; what is known of a row's
        first tokens is used for rows of the same caller only. Default: one caller's rows.
        """

    @abstractmethod
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """A forward pass over each row's newest token; the logits of the next ones, (rows, vocabulary).

        Raises StepFailed where rows are stepped one by one and some fail; whatever else it raises concerns all rows.
        """

    def _forward_by_proxy(self) -> Callable[..., torch.Tensor]:
        """`_forward` for a graph's step, which shall not keep this decoder alive: it keeps the graph."""
        decoder = weakref.proxy(self)
        return lambda *positions, **arguments: decoder._forward(*positions, **arguments)

    def untrace(self) -> None:
        """Run steps by the model's modules again."""
        self._graph = None

    @abstractmethod
    def history(self, prompt: Sequence[int]) -> list[int]:
        """The tokens before a row's generated ones, as `generate` passes them to logits processors."""

    def remove(self, gone: set[int]) -> list[int]:
        """Remove rows; the old numbers of the remaining ones, in their new order."""
        orders = [cache.remove(gone) for cache in self._caches]
        return orders[0]

    def clear(self) -> None:
        """Remove all rows."""
        for cache in self._caches:
            cache.clear()

    def _hook_positions(self) -> bool:
        """Set each row's positions in models that compute positions themselves (BART and similar)."""
        half = self.module.get_decoder() if hasattr(self.module, "get_decoder") else self.module
        found = getattr(half, "embed_positions", None)
        if "position_ids" in self._arguments or not isinstance(found, torch.nn.Embedding):
            return False

        def look_up(*_: object) -> torch.Tensor | None:
            if self._positions is None:
                return None
            return embedding(self._positions + getattr(found, "offset", 0), found.weight)

        self._hook = found.register_forward_hook(look_up)
        return True

    def unhook(self) -> None:
        """Remove the hook from the model."""
        if self._hook is not None:
            self._hook.remove()

    def pad_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts as `generate` takes them: ids and mask."""
        ids, mask, _ = self._pad_left(prompts, max(map(len, prompts)))
        return ids, torch.ones_like(ids) if mask is None else mask

    def _forward(self, positions: torch.Tensor, **arguments: object) -> torch.Tensor:
        """The last logits of each row."""
        if "position_ids" in self._arguments:
            arguments["position_ids"] = positions
        if "logits_to_keep" in self._arguments:
            arguments["logits_to_keep"] = 1
        self._positions = positions if self._tells_positions else None
        try:
            logits: torch.Tensor = self.module(use_cache=True, **arguments).logits
        finally:
            self._positions = None
        return logits[:, -1]

    def width(self, longest: int) -> int:
        """The width to which prompts are padded: bucketed up to `max_width`, so that few shapes occur."""
        width = -(-bucket_size(longest) // WIDTH_STEP) * WIDTH_STEP
        return max(longest, min(width, self.max_width))

    def _pad_left(
        self, rows: Sequence[Sequence[int]], width: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """(rows, width) int64 each: ids, mask or None where nothing is padded, positions."""
        ids = numpy.full((len(rows), width), self._pad, dtype=numpy.int64)
        for index, row in enumerate(rows):
            ids[index, width - len(row) :] = row
        lengths = torch.tensor([len(row) for row in rows])[:, None]
        positions = torch.arange(width) - (width - lengths)
        mask = None if bool((lengths == width).all()) else (positions >= 0).to(torch.int64).to(self.device)
        return torch.from_numpy(ids).to(self.device), mask, positions.clamp(min=0).to(self.device)

    def _positions_now(self) -> torch.Tensor:
        return torch.tensor(self._caches[0].layout.lengths, device=self.device)[:, None]


def find_last_position(module: "PreTrainedModel") -> int | None:
    """The last position of a model's decoder, counted from 0; None where no table of positions bounds it.

    So many new tokens fill the table together with the start token. RoBERTa and ProphetNet, which alone have a padding
    token in that table, begin to count behind it.
    """
    half = module.get_decoder() if hasattr(module, "get_decoder") else module
    counts = [
        part.num_embeddings - (getattr(part, "offset", 0) if part.padding_idx is None else part.padding_idx + 1)
        for name, part in half.named_modules()
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(part, torch.nn.Embedding)
    ]
    return min(counts) - 1 if counts else None


def layer_states(cache: Cache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]
