"""A row's vector from the states of its tokens, as sentence-transformers (6.2) computes it. Engine side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from serving.tasks.base.task import Batch, upload

if TYPE_CHECKING:
    import torch


def counted_positions(batch: Batch, skipped: Sequence[int], device: "torch.device") -> "torch.Tensor | None":
    """The position in its row at which each token counts, (rows, tokens) int64 as `pool` takes it; None if all count.

    skipped: how many first tokens of each row do not count.
    """
    if "attention_mask" not in batch.inputs and not any(skipped):
        return None
    mask = batch.mask()
    positions = mask.cumsum(1) * mask
    if not any(skipped):
        return positions
    return positions * (positions > upload(numpy.asarray(skipped)[:, None], device))


def pool(states: "torch.Tensor", modes: Sequence[str], real: "torch.Tensor | None" = None) -> "torch.Tensor":
    """Pooled states, those of several modes one after another: (rows, size x modes) float32.

    states: (rows, tokens, size) float32. real: (rows, tokens) int64, at which position in the row, from 1 on, a token
    counts, 0 where it does not; None where all count. Rows may be padded on either side.
    """
    import torch

    if real is None:
        real = torch.arange(1, states.shape[1] + 1, device=states.device).expand(states.shape[:2])
    return torch.cat([_pool(states, mode, real) for mode in modes], dim=-1)


def _pool(states: "torch.Tensor", mode: str, real: "torch.Tensor") -> "torch.Tensor":
    import torch

    counts = real > 0
    if mode in ("cls", "last"):
        number = counts.int().argmax(1) if mode == "cls" else real.argmax(1)
        return states[torch.arange(len(states), device=states.device), number]
    if mode == "max":
        return states.masked_fill(~counts.unsqueeze(-1), float("-inf")).amax(1)
    weights = (real if mode == "weightedmean" else counts).to(states.dtype)
    total = weights.sum(1, keepdim=True)
    if mode == "mean_sqrt_len_tokens":
        total = total.sqrt()
    pooled: torch.Tensor = (states * weights.unsqueeze(-1)).sum(1) / total
    return pooled
