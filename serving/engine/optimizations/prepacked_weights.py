"""Products with a model's weights on a CPU, with weights in the layout that oneDNN computes in, where that is faster.

Torch asks MKL for products in float32, which leaves AVX-512 unused on AMD's processors. For those in bfloat16 it asks
oneDNN, which brings the weights into its layout anew each time: with few tokens that takes longer than the product.
Engine side, once a model is loaded.
"""

import logging
import time
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

logger = logging.getLogger("headwaiter.engine")

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""The dtypes of weights that are packed, and how far a product may be from torch's own, of the largest."""
FEW_ROWS = (1, 8)
"""Tokens of the small products that are measured: of one text that is written, and of some."""
MANY_ROWS, BUSY = 256, 1 << 28
"""Of the large one, but for so many multiplications at most; ours."""
REPEATS = 3


class Packed(torch.nn.Linear):
    """torch's own, its weights packed. No module is made of it: those of a model change their class."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        if isinstance(
            given, FakeTensor
        ):  # `serving.engine.optimizations.torchscript` looks what the model does, not how
            return given.new_zeros((*given.shape[:-1], self.out_features))
        return multiply(given, self.weight, self.bias)


def _multiply(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return result


multiply: Callable[..., torch.Tensor]
multiply = torch.jit.script_if_tracing(_multiply)  # type: ignore[no-untyped-call]  # torch leaves it untyped
"""(given, weight, bias) → given times weight, which may be packed, plus bias. A trace cannot hold its empty list."""


@torch.inference_mode()
def choose_products(
    module: torch.nn.Module,
    try_out: Callable[[], object],
    note: Callable[[str], None] = logger.info,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Pack the weights of layers whose shape is faster so; how many that were. Blocks for a moment.

    try_out: runs the model. Some compute with a layer's weights themselves, and raise: these are left as they were. So
    are all where the processor cannot multiply that dtype. note: is told why.
    """
    packed: list[tuple[Any, type]] = []
    try:
        for each, kind in _find_faster(module, clock) if torch._C._has_mkldnn else []:
            weight = each.weight if kind is torch.nn.Linear else each.weight.t().contiguous()
            each.out_features, each.in_features = weight.shape
            each.weight = torch.nn.Parameter(_pack(weight), requires_grad=False)
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


def _find_faster(module: torch.nn.Module, clock: Callable[[], float]) -> list[tuple[Any, type]]:
    """Layers and their classes."""
    faster: dict[tuple[int, int, torch.dtype], bool] = {}
    found: list[tuple[Any, type]] = []
    for each in list[Any](module.modules()):
        kind = type(each)
        if kind not in (torch.nn.Linear, Conv1D):
            continue
        if each.weight.dtype not in TOLERANCE or each.weight.device.type != "cpu":
            continue
        weight = each.weight if kind is torch.nn.Linear else each.weight.t().contiguous()
        shape = (*weight.shape, weight.dtype)
        if shape not in faster:
            faster[shape] = _is_faster(weight, clock)
        if faster[shape]:
            found.append((each, kind))
    return found


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, MANY_ROWS)
    return packed


def _is_faster(weight: torch.Tensor, clock: Callable[[], float]) -> bool:
    """Over all products alike, and in the large one, which decides what a busy model gets done; and as right."""
    packed, gains = _pack(weight), list[float]()
    for rows in (*FEW_ROWS, min(MANY_ROWS, max(FEW_ROWS[-1], BUSY // weight.numel()))):
        given = torch.linspace(-1, 1, rows * weight.shape[1], dtype=weight.dtype).view(rows, -1)
        expected = linear(given, weight)
        tolerance = TOLERANCE[weight.dtype] * float(expected.abs().max())
        if not torch.allclose(multiply(given, packed, None), expected, rtol=0.0, atol=tolerance):
            return False
        best = []
        for way, layout in ((linear, weight), (multiply, packed)):
            best.append(float("inf"))
            for _ in range(REPEATS):
                began = clock()
                way(given, layout, None)
                best[-1] = min(best[-1], clock() - began)
        gains.append(best[0] / best[1])
    return prod(gains) > 1 and gains[-1] >= 1
