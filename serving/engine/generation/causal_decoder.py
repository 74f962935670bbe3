"""A decoder without an encoder, whose steps may run as a TorchScript graph, and whose prompts may share prefixes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from serving.engine.generation.decoder import Decoder, layer_states
from serving.engine.generation.kv_cache import RowCache
from serving.engine.generation.prefix_cache import BLOCK_TOKENS, Block, LayerStates, PrefixCache, lay_out
from serving.engine.generation.step_graph import CausalStep, name_views, trace_step
from serving.engine.optimizations.torchscript import NotTraceable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CausalDecoder(Decoder):
    """A decoder alone: a row is its prompt and its new tokens.

    prefixes: keys and values of earlier rows' first tokens; None where each row is computed from its first token on.
    """

    def __init__(self, module: "PreTrainedModel", pad_token_id: int) -> None:
        super().__init__(module, pad_token_id)
        self.prefixes: PrefixCache | None = None

    def trace(self, vocabulary: int, max_tokens: int) -> None:
        """Run steps as a TorchScript graph from now on. Raises what `step_graph.trace_step` does."""
        if "position_ids" not in self._arguments and not self._tells_positions:
            raise NotTraceable("it counts positions itself")
        cache = DynamicCache()
        nothing = torch.zeros((1, 1), dtype=torch.int64)
        self._forward(nothing, input_ids=nothing, past_key_values=cache)
        like = {"attention_mask": [part for pair in layer_states(cache) for part in pair]}
        self._graph = trace_step(CausalStep(self.module, self._forward_by_proxy()), like, vocabulary, max_tokens)

    def computed_tokens(self, tokens: Sequence[int], caller: str) -> int:
        """All of them but those of a known prefix."""
        return len(tokens) - BLOCK_TOKENS * len(self._find_prefix(tokens, caller))

    def prefill(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], callers: Sequence[str] = ()
    ) -> torch.Tensor:
        """One forward pass over all rows' tokens, padded on the left, without the columns that prefixes are known of.

        Rows end at the same column, so the row with the shortest known prefix decides how many columns are computed.
        The part of longer prefixes that lies in these columns is computed again.
        """
        rows = [[*prompt, *new] for prompt, new in zip(prompts, written, strict=True)]
        callers = callers or [""] * len(rows)
        known = [self._find_prefix(row, caller) for row, caller in zip(rows, callers, strict=True)]
        needed = [len(row) - BLOCK_TOKENS * len(blocks) for row, blocks in zip(rows, known, strict=True)]
        width = self.width(max(needed))
        reused = [max(0, len(row) - width) for row in rows]
        past = max(reused)
        ids, mask, positions = self._pad_left(rows, past + width)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(lay_out(known, reused) if past else ()):
            cache.update(keys, values, layer)
        logits = self._forward(positions[:, past:], input_ids=ids[:, past:], attention_mask=mask, past_key_values=cache)
        states = layer_states(cache)
        if not self._caches:
            self._caches = [RowCache(len(states))]
        self._keep_prefixes(rows, callers, states)
        self._caches[0].insert(states, [len(row) for row in rows])
        self.reused = reused
        return logits

    def _find_prefix(self, tokens: Sequence[int], caller: str) -> list[Block]:
        return [] if self.prefixes is None else self.prefixes.find(caller, tokens)

    def _keep_prefixes(self, rows: Sequence[Sequence[int]], callers: Sequence[str], states: LayerStates) -> None:
        """Keep the first tokens of rows that were prefilled. states: (rows, heads, columns, size) each."""
        if self.prefixes is None:
            return
        columns = states[0][0].shape[2]
        for index, (row, caller) in enumerate(zip(rows, callers, strict=True)):
            first = columns - len(row)
            own = [(keys[index, :, first:], values[index, :, first:]) for keys, values in states]
            self.prefixes.add(caller, row, own)

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
            logits = self._graph(**given, **name_views(cache.views())).logits
        cache.advance()
        return logits

    def history(self, prompt: Sequence[int]) -> list[int]:
        """The prompt."""
        return list(prompt)
