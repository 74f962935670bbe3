"""Weight prepacking on a CPU: linear layers with weights in oneDNN's own layout, where that is faster.

In float32 torch multiplies by MKL, which leaves AVX-512 unused on AMD processors. In bfloat16 it multiplies by oneDNN,
which reorders the weights on each call; with few tokens that takes longer than the product.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from math import prod

import torch
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from registry.redaction import describe_error
from serving.engine.measurements import Measurements
from serving.engine.optimizations.torch_private import (
    LARGE_ROWS,
    has_onednn,
    is_fake,
    linear_prepacked,
    prepack_weight,
)
from serving.engine.timing import CLOCK, Clock, min_seconds
from serving.engine.tolerances import LINEAR

logger = logging.getLogger("headwaiter.engine")

DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes of the weights that oneDNN prepacks."""
SMALL_ROWS = (1, 8)
"""Tokens of the small products that are timed: a decode step of one sequence, and of several."""
MAX_MULTIPLICATIONS = 1 << 28
"""Of the large product that is timed, which has fewer tokens than `LARGE_ROWS` where it would take more."""
REPEATS = 3

Layer = tuple[torch.nn.Linear | Conv1D, type]
"""A layer and its class before prepacking, `torch.nn.Linear` or `Conv1D`."""


class PrepackedLinear(torch.nn.Linear):
    """A linear layer with prepacked weights. Never constructed: a model's layers change their class to it."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        if is_fake(given):  # `torch_private.operations_of` records what the layer does, not which kernel does it
            return given.new_zeros((*given.shape[:-1], self.out_features))
        return linear_prepacked(given, self.weight, self.bias)


@torch.inference_mode()
def prepack_weights(
    module: torch.nn.Module,
    try_out: Callable[[], object],
    note: Callable[[str], None] = logger.info,
    clock: Clock = CLOCK,
    measurements: Measurements | None = None,
) -> int:
    """Prepack the weights of layers with a shape that is faster so; the number of these layers. Blocks for a moment.

    try_out: runs the model. Models that compute with a layer's weights themselves raise there, and keep all weights as
    they were; so does a processor that cannot multiply the dtype. note: is told the reason. measurements: which shapes
    are known to be faster so.
    """
    prepacked: list[Layer] = []
    try:
        for each, kind in _find_faster(module, measurements or Measurements(), clock) if has_onednn() else []:
            weight = _weight_of(each, kind)
            each.out_features, each.in_features = weight.shape
            each.weight = torch.nn.Parameter(prepack_weight(weight, LARGE_ROWS), requires_grad=False)
            each.__class__ = PrepackedLinear
            prepacked.append((each, kind))
        if prepacked:
            try_out()
    except Exception as error:  # a model may raise anything
        note(f"weights are not prepacked: {describe_error(error).splitlines()[0]}")
        for each, kind in prepacked:
            weight = each.weight.to_dense()
            each.weight = torch.nn.Parameter(weight if kind is torch.nn.Linear else weight.t(), requires_grad=False)
            each.__class__ = kind
        return 0
    return len(prepacked)


def _weight_of(layer: torch.nn.Linear | Conv1D, kind: type) -> torch.Tensor:
    """A layer's weight as (out_features, in_features); Conv1D stores the transpose."""
    weight: torch.Tensor = layer.weight
    return weight if kind is torch.nn.Linear else weight.t().contiguous()


def _find_faster(module: torch.nn.Module, measurements: Measurements, clock: Clock) -> list[Layer]:
    """Layers that are faster with prepacked weights and right; each shape is looked at once."""
    faster: dict[tuple[int, int, torch.dtype], bool] = {}
    found: list[Layer] = []
    for each in module.modules():
        kind = type(each)
        if kind not in (torch.nn.Linear, Conv1D):
            continue
        weight = _weight_of(each, kind)
        if weight.dtype not in DTYPES or weight.device.type != "cpu":
            continue
        shape = (*weight.shape, weight.dtype)
        if shape not in faster:
            name = f"prepacked {shape[0]} × {shape[1]}"
            faster[shape] = _is_right(weight) and measurements.recall(name, bool, partial(_is_faster, weight, clock))
        if faster[shape]:
            found.append((each, kind))
    return found


def _factors(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """What the weight is multiplied with: few tokens and many."""
    for rows in (*SMALL_ROWS, min(LARGE_ROWS, max(SMALL_ROWS[-1], MAX_MULTIPLICATIONS // weight.numel()))):
        yield torch.linspace(-1, 1, rows * weight.shape[1], dtype=weight.dtype).view(rows, -1)


def _is_right(weight: torch.Tensor) -> bool:
    """Whether the products with the prepacked weight are those with the weight."""
    packed = prepack_weight(weight, LARGE_ROWS)
    for given in _factors(weight):
        expected = linear(given, weight)
        tolerance = LINEAR.of(weight.dtype) * float(expected.abs().max())
        if not torch.allclose(linear_prepacked(given, packed, None), expected, rtol=0.0, atol=tolerance):
            return False
    return True


def _is_faster(weight: torch.Tensor, clock: Clock) -> bool:
    """Whether prepacking is faster over all timed products and in the large one, which decides the throughput of a busy
    model.
    """
    packed, gains = prepack_weight(weight, LARGE_ROWS), list[float]()
    for given in _factors(weight):
        plain = min_seconds(partial(linear, given, weight, None), REPEATS, clock)
        prepacked = min_seconds(partial(linear_prepacked, given, packed, None), REPEATS, clock)
        gains.append(plain / prepacked)
    return prod(gains) > 1 and gains[-1] >= 1
