"""The decoder of models that cannot be written together: each row has the model's own cache and takes its own steps."""

from collections.abc import Sequence
from typing import Any

import torch

from serving.engine.generation.decoder import Decoder, StepFailed


class SequentialDecoder(Decoder):
    """As `Decoder`, row by row, as `generate` would call the model for one row without padding."""

    def __init__(self, module: Any, pad_token_id: int) -> None:
        super().__init__(module, pad_token_id)
        self.unhook()
        self._pasts: list[Any] = []
        self._lengths: list[int] = []
        self._encoded: list[Any] = []

    @property
    def cached_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(self._lengths)

    def prefill(self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> torch.Tensor:
        """A forward pass for each row."""
        found, pasts, lengths, states = list[torch.Tensor](), list[Any](), list[int](), list[Any]()
        for prompt, new in zip(prompts, written, strict=True):
            ids, encoded = [*prompt, *new], None
            if self.module.config.is_encoder_decoder:
                encoded = self.module.get_encoder()(input_ids=torch.tensor([prompt], device=self.device))
                ids = [*self.history(prompt), *new]
            logits, past = self._call(ids, None, encoded)
            found.append(logits)
            pasts.append(past)
            lengths.append(len(ids))
            states.append(encoded)
        self._pasts += pasts  # once all are there: one that fails leaves nothing behind
        self._lengths += lengths
        self._encoded += states
        return torch.cat(found)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """A forward pass for each row; raises StepFailed, or the error itself where all rows fail."""
        found: dict[int, torch.Tensor] = {}
        errors: dict[int, Exception] = {}
        for row, token in enumerate(tokens):
            try:
                found[row], self._pasts[row] = self._call([token], self._pasts[row], self._encoded[row])
                self._lengths[row] += 1
            except Exception as error:  # a model may raise anything; it must cost its own row only
                errors[row] = error
        if not found:
            raise errors[0]
        any_logits = next(iter(found.values()))
        logits = torch.cat([found.get(row, any_logits) for row in range(len(tokens))])
        if errors:
            raise StepFailed(errors, logits)
        return logits

    def width(self, longest: int) -> int:
        """Nothing is padded."""
        return longest

    def remove(self, gone: set[int]) -> list[int]:
        """Let rows go; those that stay keep their order."""
        stay = [row for row in range(len(self._pasts)) if row not in gone]
        for values in (self._pasts, self._lengths, self._encoded):
            values[:] = [values[row] for row in stay]
        return stay

    def clear(self) -> None:
        """Let all rows go."""
        self.remove(set(range(len(self._pasts))))

    def history(self, prompt: Sequence[int]) -> list[int]:
        """The prompt, or the decoder's start."""
        return [self.start_token] if self.module.config.is_encoder_decoder else list(prompt)

    def _call(self, ids: list[int], past: Any, encoded: Any) -> tuple[torch.Tensor, Any]:
        tokens = torch.tensor([ids], device=self.device)
        half = {"input_ids": tokens} if encoded is None else {"decoder_input_ids": tokens, "encoder_outputs": encoded}
        out = self.module(use_cache=True, past_key_values=past, **half)
        return out.logits[:, -1], out.past_key_values
