"""Products with a model's weights on a CPU, with weights in the layout that oneDNN computes in, where that is faster.

Torch asks MKL for products in float32, which leaves AVX-512 unused on AMD's processors. For those in bfloat16 it asks
oneDNN, which brings the weights into its layout anew each time: with few tokens that takes longer than the product.
Engine side, once a model is loaded.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

DTYPES = (torch.float32, torch.bfloat16)
ROWS = (1, 8, 64)
"""Tokens of the products that are measured: of a text that is written, of some, and of texts that are read."""
REPEATS = 5


class Packed(torch.nn.Linear):
    """torch's own, its weights packed. No module is made of it: those of a model change their class."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        if isinstance(given, FakeTensor):  # `serving.traced` looks what the model does, not how
            return given.new_zeros((*given.shape[:-1], self.out_features))
        return multiply(given, self.weight, self.bias)


def _multiply(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return result


multiply: Callable[..., torch.Tensor]
multiply = torch.jit.script_if_tracing(_multiply)  # type: ignore[no-untyped-call]  # torch leaves it untyped
"""(given, weight, bias) → given times weight, which may be packed, plus bias. A trace cannot hold its empty list."""


@torch.inference_mode()
def choose_products(module: torch.nn.Module, clock: Callable[[], float] = time.perf_counter) -> int:
    """Pack the weights of layers whose shape is faster so; how many that were. Blocks for a moment."""
    if not torch._C._has_mkldnn:
        return 0
    faster: dict[tuple[int, int, torch.dtype], bool] = {}
    count = 0
    for each in list[Any](module.modules()):
        if type(each) not in (torch.nn.Linear, Conv1D):
            continue
        if each.weight.dtype not in DTYPES or each.weight.device.type != "cpu":
            continue
        weight = each.weight if type(each) is torch.nn.Linear else each.weight.t().contiguous()
        shape = (*weight.shape, weight.dtype)
        if shape not in faster:
            faster[shape] = _is_faster(weight, clock)
        if faster[shape]:
            each.out_features, each.in_features = weight.shape
            each.weight = torch.nn.Parameter(_pack(weight), requires_grad=False)
            each.__class__ = Packed
            count += 1
    return count


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS[-1])
    return packed


def _is_faster(weight: torch.Tensor, clock: Callable[[], float]) -> bool:
    """Over all of `ROWS` alike."""
    packed, gain = _pack(weight), 1.0
    for rows in ROWS:
        given = weight.new_ones(rows, weight.shape[1])
        best = []
        for way, layout in ((linear, weight), (multiply, packed)):
            best.append(float("inf"))
            for _ in range(REPEATS):
                began = clock()
                way(given, layout, None)
                best[-1] = min(best[-1], clock() - began)
        gain *= best[0] / best[1]
    return gain > 1
