"""A module whose rows must be padded on the left, called with rows that are padded on the right.

Tasks find a row's tokens from position 0 on. So tokens move to the right before the module's forward pass, and its
outputs per token move back.
"""

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOKEN_OUTPUTS = ("last_hidden_state", "start_logits", "end_logits")


class LeftPadded:
    """Stands for the module. Attributes are the module's."""

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)

    def __call__(self, **inputs: torch.Tensor) -> ModelOutput:
        """The module's outputs, their tokens as those of `inputs`: the tokens of a row, then its padding."""
        mask = inputs.get("attention_mask")
        if mask is None:  # nothing is padded
            return self._module(**inputs)
        width = mask.shape[-1]
        padding = width - mask.sum(-1, keepdim=True)
        positions = torch.arange(width, device=mask.device)
        to_left, to_right = (positions + padding) % width, (positions - padding) % width
        moved = {name: each.gather(-1, to_right) if name in TOKEN_INPUTS else each for name, each in inputs.items()}
        output = self._module(**moved)
        for name in (*TOKEN_OUTPUTS, "logits"):
            found = output.get(name)
            if found is not None and (name in TOKEN_OUTPUTS or found.ndim > mask.ndim):
                index = to_left.reshape(*to_left.shape, *[1] * (found.ndim - to_left.ndim))
                output[name] = found.gather(
                    to_left.ndim - 1, index.expand(*to_left.shape, *found.shape[to_left.ndim :])
                )
        return output
