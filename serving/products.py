"""Products of float32 weights on a CPU, by the library that is faster on this machine. Torch asks MKL, which leaves
AVX-512 unused on AMD's processors; oneDNN, which torch has too, does not. Engine side, once a model is loaded.
"""

import time
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear

LEAST_PRODUCTS = 1_500_000
"""Multiplications below which oneDNN's way to a product costs more than it saves; ours."""
FASTER = 1.15
"""oneDNN must be faster by this."""
ROWS = (8, 64)
"""What is measured: some rows that are written together, and the tokens of some that are read."""
REPEATS = 5


class Linear(torch.nn.Linear):
    """torch's own with large products by oneDNN. No module is made of it: those of a model change their class."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        if isinstance(given, FakeTensor):  # `serving.traced` looks what the model does, not how
            return super().forward(given)
        result: torch.Tensor = multiply(given, self.weight, self.bias)
        return result


def _multiply(
    given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, least: int = LEAST_PRODUCTS
) -> torch.Tensor:
    if given.numel() * weight.shape[0] < least:
        return linear(given, weight, bias)
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return result


multiply: Callable[..., torch.Tensor]
multiply = torch.jit.script_if_tracing(_multiply)  # type: ignore[no-untyped-call]  # torch leaves it untyped
"""(given, weight, bias) → given times weight, plus bias; in a graph, too, by the size of what each call is given."""


@torch.inference_mode()
def choose_products(module: torch.nn.Module, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Let a float32 model on a CPU multiply by oneDNN where that is faster here; whether it does. Blocks a moment."""
    layers = [each for each in module.modules() if type(each) is torch.nn.Linear]
    layers = [each for each in layers if each.weight.dtype == torch.float32 and each.weight.device.type == "cpu"]
    if not layers or not torch._C._has_mkldnn:
        return False
    largest = max(layers, key=lambda each: each.weight.numel())
    least = LEAST_PRODUCTS // largest.weight.numel() + 1
    if not all(_is_faster(largest, max(rows, least), clock) for rows in ROWS):
        return False
    for each in layers:
        each.__class__ = Linear
    return True


def _is_faster(layer: torch.nn.Linear, rows: int, clock: Callable[[], float]) -> bool:
    given = torch.ones(rows, layer.in_features)
    best = []
    for way in (linear, multiply):
        best.append(float("inf"))
        for _ in range(REPEATS):
            began = clock()
            way(given, layer.weight, layer.bias)
            best[-1] = min(best[-1], clock() - began)
    return best[0] >= FASTER * best[1]
