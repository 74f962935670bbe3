"""The decoder of models without a key-value cache (state-space models, GPT-1): a step computes a row's whole text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from serving.engine.generation.sequential import SequentialDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class UncachedDecoder(SequentialDecoder):
    """Runs the model on all tokens of one row at a time. The cost of a step grows with the text. Decoders alone."""

    def __init__(self, module: "PreTrainedModel", pad_token_id: int) -> None:
        super().__init__(module, pad_token_id)
        self._rows: list[list[int]] = []

    @property
    def cached_tokens(self) -> int:
        """Nothing is kept but the tokens themselves."""
        return sum(map(len, self._rows))

    def prefill(
        self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], callers: Sequence[str] = ()
    ) -> torch.Tensor:
        """A forward pass per row."""
        rows = [[*prompt, *new] for prompt, new in zip(prompts, written, strict=True)]
        logits = torch.cat([self._run(row) for row in rows])
        self._rows += rows  # only after all succeeded: a failing row adds nothing
        return logits

    def remove(self, gone: set[int]) -> list[int]:
        """Remove rows; the remaining ones keep their order."""
        stay = [index for index in range(len(self._rows)) if index not in gone]
        self._rows = [self._rows[index] for index in stay]
        return stay

    def clear(self) -> None:
        """Remove all rows."""
        self._rows = []

    def _step_row(self, row: int, token: int) -> torch.Tensor:
        self._rows[row].append(token)
        return self._run(self._rows[row])

    def _run(self, row: Sequence[int]) -> torch.Tensor:
        """The logits of the next token, from the inputs that `generate` prepares for a first step."""
        ids = torch.tensor([row], device=self.device)
        inputs = self.module.prepare_inputs_for_generation(
            ids, attention_mask=torch.ones_like(ids), past_key_values=None, use_cache=False, is_first_iteration=True
        )
        logits: torch.Tensor = self.module(**inputs, return_dict=True).logits[:, -1]
        return logits
