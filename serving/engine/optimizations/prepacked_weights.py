"""How linear layers lay their weights out on a CPU: as they are, transposed, or prepacked for oneDNN, by measurement.

In float32 torch multiplies by MKL, which leaves AVX-512 unused on AMD processors, and which reads weights as they are
in strides where there are few tokens; transposed ones it reads in order. In bfloat16 torch multiplies by oneDNN, which
reorders the weights on each call; with few tokens that takes longer than the product.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from math import inf, prod

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
SMALL_ROWS = (1, 8, 40)
"""Tokens of the small products that are timed: a decode step of one sequence, of several, or a text that is alone."""
COLD_BYTES = 4 << 20
"""Of the weights of one shape that are multiplied in turn, as in a forward pass none is left in the core's cache."""
MAX_LARGE_LOSS = 1.1
"""How much longer than with the best layout the large product may take: what differs less may be noise."""
MAX_MULTIPLICATIONS = 1 << 28
"""Of the large product that is timed, which has fewer tokens than `LARGE_ROWS` where it would take more."""
ROUNDS, REPEATS = 3, 2
"""Rounds of all layouts, and timings of a product in each; the fastest one counts."""


class WeightLayout(StrEnum):
    """Of a layer's weights. TRANSPOSED: in memory, with the same shape; of float32. PREPACKED: oneDNN's own."""

    PLAIN = "plain"
    TRANSPOSED = "transposed"
    PREPACKED = "prepacked"


Layer = tuple[torch.nn.Linear | Conv1D, type]
"""A layer and its class before prepacking, `torch.nn.Linear` or `Conv1D`."""


class PrepackedLinear(torch.nn.Linear):
    """A linear layer with prepacked weights. Never constructed: a model's layers change their class to it."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(…, in_features) → (…, out_features)."""
        if is_fake(given):  # `torch_private.operations_of` records what the layer does, not which kernel does it
            return given.new_zeros((*given.shape[:-1], self.out_features))
        return linear_prepacked(given, self.weight, self.bias)


@torch.no_grad()  # a model that is called outside of inference mode takes no weights that were made in it
def prepack_weights(
    module: torch.nn.Module,
    try_out: Callable[[], object],
    note: Callable[[str], None] = logger.info,
    clock: Clock = CLOCK,
    measurements: Measurements | None = None,
) -> int:
    """Prepack or transpose the weights of each shape where that is faster; the number of prepacked layers. Blocks for a
    moment.

    try_out: runs the model. Models that compute with a layer's weights themselves raise there, and keep all weights as
    they were; so does a processor that cannot multiply the dtype. note: is told the reason. measurements: which layout
    of a shape is known to be fastest.
    """
    changed: list[Layer] = []
    prepacked = 0
    try:
        for layout, layers in _find_layouts(module, measurements or Measurements(), clock, note):
            for each, kind in layers:
                weight = _weight_of(each, kind)
                each.out_features, each.in_features = weight.shape
                each.weight = torch.nn.Parameter(_lay_out(weight, layout), requires_grad=False)
                each.__class__ = PrepackedLinear if layout == WeightLayout.PREPACKED else torch.nn.Linear
                changed.append((each, kind))
            prepacked += len(layers) * (layout == WeightLayout.PREPACKED)
        if changed:
            try_out()
    except Exception as error:  # a model may raise anything
        note(_refusal(error))
        for each, kind in changed:
            weight = each.weight.to_dense().contiguous()
            each.weight = torch.nn.Parameter(weight if kind is torch.nn.Linear else weight.t(), requires_grad=False)
            each.__class__ = kind
        return 0
    return prepacked


def _refusal(error: Exception) -> str:
    return f"weights are not prepacked: {describe_error(error).splitlines()[0]}"


def _weight_of(layer: torch.nn.Linear | Conv1D, kind: type) -> torch.Tensor:
    """A layer's weight as (out_features, in_features); Conv1D stores the transpose."""
    weight: torch.Tensor = layer.weight
    return weight if kind is torch.nn.Linear else weight.t()


def _lay_out(weight: torch.Tensor, layout: WeightLayout) -> torch.Tensor:
    """A copy of an (out_features, in_features) weight in this layout; the weight itself where it has it."""
    if layout == WeightLayout.PREPACKED:
        return prepack_weight(weight.contiguous(), LARGE_ROWS)
    return weight.t().contiguous().t() if layout == WeightLayout.TRANSPOSED else weight


def _multiply(given: torch.Tensor, weight: torch.Tensor, layout: WeightLayout) -> torch.Tensor:
    return linear_prepacked(given, weight, None) if layout == WeightLayout.PREPACKED else linear(given, weight)


def _find_layouts(
    module: torch.nn.Module, measurements: Measurements, clock: Clock, note: Callable[[str], None]
) -> Iterator[tuple[WeightLayout, Sequence[Layer]]]:
    """The layers that another layout makes faster, those of one shape and kind together.

    note: as of `prepack_weights`.
    """
    groups: dict[tuple[type, torch.Size, torch.dtype], list[Layer]] = {}
    for each in module.modules():
        kind = type(each)
        if kind in (torch.nn.Linear, Conv1D) and each.weight.dtype in DTYPES and each.weight.device.type == "cpu":
            groups.setdefault((kind, _weight_of(each, kind).shape, each.weight.dtype), []).append((each, kind))
    for (kind, (outputs, inputs), dtype), layers in groups.items():
        weights = [_weight_of(*layer) for layer in layers]
        layouts = [WeightLayout.PLAIN]
        if kind is not Conv1D and dtype == torch.float32 and _is_right(weights[0], WeightLayout.TRANSPOSED):
            layouts.append(WeightLayout.TRANSPOSED)
        try:
            if has_onednn() and _is_right(weights[0], WeightLayout.PREPACKED):
                layouts.append(WeightLayout.PREPACKED)
        except Exception as error:  # torch may raise anything where it cannot prepack
            note(_refusal(error))
        name = f"layout of {outputs} × {inputs}{' transposed' * (kind is Conv1D)}"
        layout = measurements.recall(name, WeightLayout, partial(_choose_layout, weights, layouts, clock))
        del weights  # each is given up as its layer gets another one
        if layout != WeightLayout.PLAIN and layout in layouts:
            yield layout, layers


def _factors(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """What the weight is multiplied with: few tokens and many."""
    for rows in (*SMALL_ROWS, min(LARGE_ROWS, max(SMALL_ROWS[-1], MAX_MULTIPLICATIONS // weight.numel()))):
        yield torch.linspace(-1, 1, rows * weight.shape[1], dtype=weight.dtype).view(rows, -1)


def _is_right(weight: torch.Tensor, layout: WeightLayout) -> bool:
    """Whether the products with the weight in this layout are those with the weight as it is."""
    laid_out = _lay_out(weight, layout)
    for given in _factors(weight):
        expected = linear(given, weight)
        tolerance = LINEAR.of(weight.dtype) * float(expected.abs().max())
        if not torch.allclose(_multiply(given, laid_out, layout), expected, rtol=0.0, atol=tolerance):
            return False
    return True


def _choose_layout(weights: Sequence[torch.Tensor], layouts: Sequence[WeightLayout], clock: Clock) -> WeightLayout:
    """The layout that is fastest over the timed products, of which the large one counts as much as the small ones: it
    decides the throughput of a busy model.
    """
    some = weights[: COLD_BYTES // weights[0].nbytes + 1]
    factors = list(_factors(weights[0]))
    took = {layout: [inf] * len(factors) for layout in layouts}
    for _ in range(ROUNDS):  # in turns, so that a disturbance hits all layouts; one at a time in memory
        for layout in layouts:
            laid_out = [_lay_out(weight, layout) for weight in some]
            for index, given in enumerate(factors):
                seconds = min_seconds(partial(_multiply_all, given, laid_out, layout), REPEATS, clock)
                took[layout][index] = min(took[layout][index], seconds)
    most = MAX_LARGE_LOSS * min(large for *_, large in took.values())

    def total(layout: WeightLayout) -> float:
        *small, large = took[layout]
        return prod(small) * large ** len(small)

    return min((each for each in layouts if took[each][-1] <= most), key=total)


def _multiply_all(given: torch.Tensor, weights: Sequence[torch.Tensor], layout: WeightLayout) -> None:
    for weight in weights:
        _multiply(given, weight, layout)
