"""An encoder and a decoder. The encoder's output is computed once for each row, and its keys and values are kept."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from serving.engine.generation.decoder import Decoder, layer_states
from serving.engine.generation.kv_cache import RowCache
from serving.engine.generation.step_graph import Seq2SeqStep, name_views, trace_step
from serving.engine.optimizations.torchscript import TracedModule

MASKS = ("attention_mask", "source_mask")
"""Of the decoder's own tokens and of the encoder's, as a graph of the step names them."""


class Seq2SeqDecoder(Decoder):
    """Encoder and decoder: the prompt is encoded once, new tokens follow the start token."""

    @property
    def may_search_together(self) -> bool:
        """Prompts are the encoder's, which is padded on the right; in the decoder all begin with one token."""
        return True

    def pad_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded on the right, as encoders are trained."""
        width = self.width(max(map(len, prompts)))
        ids = torch.tensor([[*prompt, *[self._pad] * (width - len(prompt))] for prompt in prompts])
        mask = torch.arange(width) < torch.tensor([len(prompt) for prompt in prompts])[:, None]
        return ids.to(self.device), mask.to(torch.int64).to(self.device)

    def prefill(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], callers: Sequence[str] = ()
    ) -> torch.Tensor:
        """The encoder over all prompts, then the decoder over the start token and the generated tokens."""
        ids, mask = self.pad_prompts(prompts)
        encoded = self.module.get_encoder()(input_ids=ids, attention_mask=mask)
        rows = [[self.start_token, *new] for new in written]
        own, own_mask, positions = self._pad_left(rows, max(map(len, rows)))
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        logits = self._forward(
            positions,
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=own,
            decoder_attention_mask=own_mask,
            past_key_values=cache,
        )
        halves = (cache.self_attention_cache, cache.cross_attention_cache)
        if not self._caches:
            self._caches = [RowCache(len(half.layers)) for half in halves]
        self._caches[0].insert(layer_states(halves[0]), [len(row) for row in rows])
        sources = _to_the_right(layer_states(halves[1]), [len(prompt) for prompt in prompts])
        self._caches[1].insert(sources, [len(prompt) for prompt in prompts], spare=0)
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """One forward pass of the decoder over a token of each row."""
        own, sources = self._caches
        ids, positions = torch.tensor(tokens, device=self.device)[:, None], self._positions_now()
        masks = own.mask(1, self.device), sources.mask(0, self.device)
        if self._graph is not None:
            logits = self._step_by_graph(self._graph, ids, positions, masks)
        else:
            # of the encoder's output only the shape is needed now
            shape = (own.layout.rows, sources.layout.width, 1)
            logits = self._forward(
                positions,
                encoder_outputs=BaseModelOutput(last_hidden_state=torch.zeros((), device=self.device).expand(shape)),
                attention_mask=masks[1],
                decoder_input_ids=ids,
                decoder_attention_mask=masks[0],
                past_key_values=EncoderDecoderCache(own, sources),
            )
        own.advance()
        return logits

    def _step_by_graph(
        self,
        graph: TracedModule,
        ids: torch.Tensor,
        positions: torch.Tensor,
        masks: tuple[torch.Tensor | None, torch.Tensor | None],
    ) -> torch.Tensor:
        given = {"input_ids": ids, "position_ids": positions}
        views = [cache.views(more) for cache, more in zip(self._caches, (1, 0), strict=True)]
        if any(mask is not None for mask in masks):
            for name, mask, (view, *_) in zip(MASKS, masks, views, strict=True):
                complete = ids.new_ones((view.shape[0], view.shape[2])) if mask is None else mask
                given[name] = complete.bool()[:, None, None]
        logits: torch.Tensor = graph(**given, **name_views([*views[0], *views[1]])).logits
        return logits

    def trace(self, vocabulary: int, max_tokens: int) -> None:
        """Run steps as a TorchScript graph from now on. Raises what `step_graph.trace_step` does.

        max_tokens: the model's, of a prompt.
        """
        try:
            self.prefill([[0]], [[]])
            like = dict(zip(MASKS, (cache.views() for cache in self._caches), strict=True))
        finally:
            self.clear()
        positions = min(max_tokens, self.max_new_tokens or max_tokens)
        self._graph = trace_step(Seq2SeqStep(self.module, self._forward_by_proxy()), like, vocabulary, positions)

    def history(self, prompt: Sequence[int]) -> list[int]:
        """The start token."""
        return [self.start_token]


def _to_the_right(
    states: list[tuple[torch.Tensor, torch.Tensor]], lengths: Sequence[int]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Move the states of right-padded rows to the right, so that their padding is on the left."""
    longest = max(lengths)
    if min(lengths) == states[0][0].shape[2]:
        return states
    device = states[0][0].device
    positions = torch.arange(longest, device=device) - (longest - torch.tensor(lengths, device=device)[:, None])
    index = positions.clamp(min=0)[:, None, :, None]

    def shift(part: torch.Tensor) -> torch.Tensor:
        return part.gather(2, index.expand(-1, part.shape[1], -1, part.shape[3]))

    return [(shift(keys), shift(values)) for keys, values in states]
