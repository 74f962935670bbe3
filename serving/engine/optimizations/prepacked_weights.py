"""Products with a model's weights on a CPU, with weights in the layout that oneDNN computes in, where that is faster.

Torch asks MKL for products in float32, which leaves AVX-512 unused on AMD's processors. For those in bfloat16 it asks
oneDNN, which brings the weights into its layout anew each time: with few tokens that takes longer than the product.
Engine side, once a model is loaded.
"""

import logging
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from serving.engine.optimizations.torch_private import has_onednn, is_fake, linear_prepacked, prepack_weight
from serving.engine.timing import CLOCK, Clock, least_seconds
from serving.engine.tolerances import LINEAR

logger = logging.getLogger("headwaiter.engine")

DTYPES = (torch.float32, torch.bfloat16)
"""Of the weights that oneDNN prepacks."""
FEW_ROWS = (1, 8)
"""Tokens of the small products that are measured: of one text that is written, and of some."""
MANY_ROWS, BUSY = 256, 1 << 28
"""Of the large one, but for so many multiplications at most; ours."""
REPEATS = 3


class Packed(torch.nn.Linear):
    """torch's own, its weights packed. No module is made of it: those of a model change their class."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        if is_fake(given):  # `torch_private.operations_of` records what the layer does, not which kernel does it
            return given.new_zeros((*given.shape[:-1], self.out_features))
        return linear_prepacked(given, self.weight, self.bias)


@torch.inference_mode()
def choose_products(
    module: torch.nn.Module,
    try_out: Callable[[], object],
    note: Callable[[str], None] = logger.info,
    clock: Clock = CLOCK,
) -> int:
    """Pack the weights of layers whose shape is faster so; how many that were. Blocks for a moment.

    try_out: runs the model. Some compute with a layer's weights themselves, and raise: these are left as they were. So
    are all where the processor cannot multiply that dtype. note: is told why.
    """
    packed: list[tuple[Any, type]] = []
    try:
        for each, kind in _find_faster(module, clock) if has_onednn() else []:
            weight = each.weight if kind is torch.nn.Linear else each.weight.t().contiguous()
            each.out_features, each.in_features = weight.shape
            each.weight = torch.nn.Parameter(prepack_weight(weight, MANY_ROWS), requires_grad=False)
            each.__class__ = Packed
            packed.append((each, kind))
        if packed:
            try_out()
    except Exception as error:  # a model may raise anything
        reason = str(error).partition("\n")[0]
        note(f"weights are not packed: {type(error).__name__}: {reason}")
        for each, kind in packed:
            weight = each.weight.to_dense()
            each.weight = torch.nn.Parameter(weight if kind is torch.nn.Linear else weight.t(), requires_grad=False)
            each.__class__ = kind
        return 0
    return len(packed)


def _find_faster(module: torch.nn.Module, clock: Clock) -> list[tuple[Any, type]]:
    """Layers and their classes."""
    faster: dict[tuple[int, int, torch.dtype], bool] = {}
    found: list[tuple[Any, type]] = []
    for each in list[Any](module.modules()):
        kind = type(each)
        if kind not in (torch.nn.Linear, Conv1D):
            continue
        if each.weight.dtype not in DTYPES or each.weight.device.type != "cpu":
            continue
        weight = each.weight if kind is torch.nn.Linear else each.weight.t().contiguous()
        shape = (*weight.shape, weight.dtype)
        if shape not in faster:
            faster[shape] = _is_faster(weight, clock)
        if faster[shape]:
            found.append((each, kind))
    return found


def _is_faster(weight: torch.Tensor, clock: Clock) -> bool:
    """Over all products alike, and in the large one, which decides what a busy model gets done; and as right."""
    packed, gains = prepack_weight(weight, MANY_ROWS), list[float]()
    for rows in (*FEW_ROWS, min(MANY_ROWS, max(FEW_ROWS[-1], BUSY // weight.numel()))):
        given = torch.linspace(-1, 1, rows * weight.shape[1], dtype=weight.dtype).view(rows, -1)
        expected = linear(given, weight)
        tolerance = LINEAR.of(weight.dtype) * float(expected.abs().max())
        if not torch.allclose(linear_prepacked(given, packed, None), expected, rtol=0.0, atol=tolerance):
            return False
        plain = least_seconds(partial(linear, given, weight, None), REPEATS, clock)
        prepacked = least_seconds(partial(linear_prepacked, given, packed, None), REPEATS, clock)
        gains.append(plain / prepacked)
    return prod(gains) > 1 and gains[-1] >= 1
