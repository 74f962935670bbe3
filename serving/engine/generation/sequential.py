"""The decoder of models that cannot be batched: each row has the model's own cache and forward passes of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from serving.engine.generation.decoder import Decoder, StepFailed

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput


class SequentialDecoder(Decoder):
    """Calls the model row by row, as `generate` does for one row without padding."""

    def __init__(self, module: "PreTrainedModel", pad_token_id: int) -> None:
        super().__init__(module, pad_token_id)
        self.unhook()
        self._pasts: list[Cache] = []
        self._lengths: list[int] = []
        self._encoded: list[BaseModelOutput | None] = []

    @property
    def cached_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(self._lengths)

    @property
    def may_search_together(self) -> bool:
        """Rows of this decoder change each other's logits."""
        return False

    def prefill(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], callers: Sequence[str] = ()
    ) -> torch.Tensor:
        """A forward pass per row, then one for each token that it has written, as `generate` took them."""
        found: list[torch.Tensor] = []
        pasts: list[Cache] = []
        lengths: list[int] = []
        states: list[BaseModelOutput | None] = []
        for prompt, new in zip(prompts, written, strict=True):
            ids, encoded = self.history(prompt), None
            if self.module.config.is_encoder_decoder:
                encoded = self.module.get_encoder()(input_ids=torch.tensor([prompt], device=self.device))
            logits, past = self._call(ids, None, encoded)
            for token in new:
                logits, past = self._call([token], past, encoded)
            found.append(logits)
            pasts.append(past)
            lengths.append(len(ids) + len(new))
            states.append(encoded)
        self._pasts += pasts  # only after all succeeded: a failing row adds nothing
        self._lengths += lengths
        self._encoded += states
        return torch.cat(found)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """A forward pass per row; raises StepFailed, or the error itself where all rows fail."""
        found: dict[int, torch.Tensor] = {}
        errors: dict[int, Exception] = {}
        for row, token in enumerate(tokens):
            try:
                found[row] = self._step_row(row, token)
            except Exception as error:  # a model may raise anything; it must cost its own row only
                errors[row] = error
        if not found:
            raise errors[0]
        any_logits = next(iter(found.values()))
        logits = torch.cat([found.get(row, any_logits) for row in range(len(tokens))])
        if errors:
            raise StepFailed(errors, logits)
        return logits

    def _step_row(self, row: int, token: int) -> torch.Tensor:
        """The logits of a row's next token, (1, vocabulary)."""
        logits, self._pasts[row] = self._call([token], self._pasts[row], self._encoded[row])
        self._lengths[row] += 1
        return logits

    def width(self, longest: int) -> int:
        """No padding."""
        return longest

    def remove(self, gone: set[int]) -> list[int]:
        """Remove rows; the remaining ones keep their order."""
        stay = [row for row in range(len(self._pasts)) if row not in gone]
        self._pasts = [self._pasts[row] for row in stay]
        self._lengths = [self._lengths[row] for row in stay]
        self._encoded = [self._encoded[row] for row in stay]
        return stay

    def clear(self) -> None:
        """Remove all rows."""
        self.remove(set(range(len(self._pasts))))

    def history(self, prompt: Sequence[int]) -> list[int]:
        """The prompt, or the start token of a model with an encoder."""
        return [self.start_token] if self.module.config.is_encoder_decoder else list(prompt)

    def _call(
        self, ids: list[int], past: "Cache | None", encoded: "BaseModelOutput | None"
    ) -> "tuple[torch.Tensor, Cache]":
        tokens = torch.tensor([ids], device=self.device)
        half = {"input_ids": tokens} if encoded is None else {"decoder_input_ids": tokens, "encoder_outputs": encoded}
        half |= self._told_positions(len(ids), past)
        out = self.module(use_cache=True, past_key_values=past, **half)
        if out.past_key_values is not None:
            return out.logits[:, -1], out.past_key_values
        if past is None:  # an encoder as a decoder returns no cache, but fills the one that it is given
            past = DynamicCache(config=self.module.config)
            out = self.module(use_cache=True, past_key_values=past, **half)
        return out.logits[:, -1], past

    def _told_positions(self, count: int, past: "Cache | None") -> dict[str, torch.Tensor]:
        """The argument that tells a call's positions to a model that does not count them as `generate` does."""
        del count, past
        return {}


class PositionedDecoder(SequentialDecoder):
    """Tells the model its positions, from 0, as `generate` does. RoBERTa itself begins behind its padding token's."""

    def _told_positions(self, count: int, past: "Cache | None") -> dict[str, torch.Tensor]:
        begin = 0 if past is None else past.get_seq_length()
        return {"position_ids": torch.arange(begin, begin + count, device=self.device)[None]}
