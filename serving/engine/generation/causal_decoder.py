"""A decoder without an encoder, whose steps may run as a TorchScript graph."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from serving.engine.generation.decoder import Decoder, layer_states
from serving.engine.generation.kv_cache import RowCache
from serving.engine.generation.step_graph import name_views, trace_step
from serving.engine.optimizations.torchscript import NotTraceable


class CausalDecoder(Decoder):
    """A decoder alone: a row is its prompt and its new tokens."""

    def trace(self, vocabulary: int, max_tokens: int) -> None:
        """Run steps as a TorchScript graph from now on. Raises what `step_graph.trace_step` does."""
        if "position_ids" not in self._arguments:
            raise NotTraceable("it counts positions itself")
        cache = DynamicCache()
        nothing = torch.zeros((1, 1), dtype=torch.int64)
        self._forward(nothing, input_ids=nothing, past_key_values=cache)
        like = [part for pair in layer_states(cache) for part in pair]
        self._graph = trace_step(self.module, like, vocabulary, max_tokens)

    def untrace(self) -> None:
        """Run steps by the model's modules again."""
        self._graph = None

    def prefill(self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> torch.Tensor:
        """One forward pass over all rows' tokens, padded on the left."""
        rows = [[*prompt, *new] for prompt, new in zip(prompts, written, strict=True)]
        ids, mask, positions = self._pad_left(rows, self.width(max(map(len, rows))))
        cache = DynamicCache()
        logits = self._forward(positions, input_ids=ids, attention_mask=mask, past_key_values=cache)
        if not self._caches:
            self._caches = [RowCache(len(cache.layers))]
        self._caches[0].insert(layer_states(cache), [len(row) for row in rows])
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """One forward pass over a token of each row."""
        (cache,) = self._caches
        ids, mask = torch.tensor(tokens, device=self.device)[:, None], cache.mask(1, self.device)
        positions = self._positions_now()
        if self._graph is None:
            logits = self._forward(positions, input_ids=ids, attention_mask=mask, past_key_values=cache)
        else:
            given = {"input_ids": ids, "position_ids": positions}
            given |= {} if mask is None else {"attention_mask": mask.bool()[:, None, None]}
            logits = self._graph(**given, **name_views(cache.views())).logits[:, -1]
        cache.advance()
        return logits

    def history(self, prompt: Sequence[int]) -> list[int]:
        """The prompt."""
        return list(prompt)
