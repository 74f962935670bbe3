"""Linear layers with int8 weights on a CPU: a scale for each output channel, and one for each token of the input.

A token's scale depends on that token alone, so no row changes another one's answer. Some channels of the inputs are far
larger than the others, which would be left with few levels; they are made smaller, and their weights larger, by factors
that are found on inputs like those to come (SmoothQuant, Xiao et al., 2023, equation 4). The products are oneDNN's,
with VNNI or AMX where the processor has them. Inputs are quantised to uint8 around 128: VNNI multiplies unsigned by
signed bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

from serving.engine.measurements import Measurements
from serving.engine.optimizations.torch_private import (
    LARGE_ROWS,
    adds_bytes_exactly,
    has_onednn,
    is_fake,
    linear_int8,
    linear_prepacked,
    prepack_int8,
    prepack_weight,
)
from serving.engine.timing import CLOCK, Clock, min_seconds

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

LinearLayer = Any
"""`torch.nn.Linear`, or transformers' `Conv1D`, which this module does not import."""

LEVELS = 127
"""Largest absolute value of a quantised input; symmetric, as in Jacob et al., 2018, section 2.1."""
SATURATING_LEVELS = 63
"""Of a quantised weight where pairs of products are added in 16 bits: 2 · 63 · 255 is the most that fits."""
MIN_CHANNEL = 0.01
"""Of the largest channel: smaller ones are not enlarged further, as other inputs may be larger there."""
MIN_FEATURES = 64
"""Layers with fewer inputs or outputs, as most heads have, cost next to nothing and stay in float."""
REPEATS = 5
STEP_ROWS = (1, 8)
"""Tokens of the products of a decode step, of one sequence and of several."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A linear layer's weight in int8.

    packed: in oneDNN's layout. scales: (outputs,) float32, what a level of each channel is worth. smoothing: (inputs,)
    float32, by which inputs are multiplied before they are quantised.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    smoothing: torch.Tensor


def weight_levels() -> int:
    """Largest absolute value of a quantised weight on this processor. Raises as `adds_bytes_exactly`."""
    return LEVELS if adds_bytes_exactly() else SATURATING_LEVELS


def quantize_weight(weight: torch.Tensor, smoothing: torch.Tensor | None = None) -> QuantizedWeight:
    """(outputs, inputs) float32 → int8, symmetric for each output channel. Raises MissingName, or torch's errors.

    smoothing: as of `QuantizedWeight`; None for ones.
    """
    most = weight_levels()
    smoothing = torch.ones(weight.shape[1]) if smoothing is None else smoothing
    weight = weight / smoothing
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / most
    levels = (weight / scales.unsqueeze(1)).round().clamp(-most, most).to(torch.int8)
    return QuantizedWeight(prepack_int8(levels), scales, smoothing)


class Int8Linear(torch.nn.Linear):
    """A linear layer with int8 weights. Never constructed: a model's layers change their class to it."""

    scales: torch.Tensor
    smoothing: torch.Tensor

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """(…, in_features) float32 → (…, out_features) float32."""
        if is_fake(given):  # as in `PrepackedLinear`
            return given.new_zeros((*given.shape[:-1], len(self.scales)))
        return linear_int8(given, self.weight, self.scales, self.smoothing, self.bias)


def precision(module: "PreTrainedModel") -> str:
    """The dtype by which the module's results may differ: int8 where any layer multiplies in it, else its own."""
    is_quantized = any(isinstance(part, Int8Linear) for part in module.modules())
    return "int8" if is_quantized else str(module.dtype).removeprefix("torch.")


class Int8Layers:
    """The linear layers of a model that may run in int8, by name, with the float weights until `finish`.

    Another thread must not run the model meanwhile.
    """

    def __init__(self, layers: Mapping[str, LinearLayer]) -> None:
        """layers: in float32, with weights as torch keeps them."""
        self._layers = dict(layers)
        self._kinds = {name: type(layer) for name, layer in layers.items()}
        self._weights = {name: layer.weight for name, layer in layers.items()}
        self._smoothing: dict[str, torch.Tensor] = {}
        self._quantized: dict[str, QuantizedWeight] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @torch.inference_mode()
    def use(self, names: Iterable[str]) -> None:
        """Run these layers in int8, and all others in float32."""
        chosen = set(names)
        for name, layer in self._layers.items():
            if name in chosen:
                self._quantize(name, layer)
            elif isinstance(layer, Int8Linear):
                layer.weight = self._weights[name]
                del layer.scales, layer.smoothing
                layer.__class__ = self._kinds[name]

    def _quantize(self, name: str, layer: LinearLayer) -> None:
        found = self._quantized_weight(name)
        layer.weight = torch.nn.Parameter(found.packed, requires_grad=False)
        if not isinstance(layer, Int8Linear):
            layer.register_buffer("scales", found.scales)
            layer.register_buffer("smoothing", found.smoothing)
            layer.__class__ = Int8Linear

    def _quantized_weight(self, name: str) -> QuantizedWeight:
        if name not in self._quantized:
            self._quantized[name] = quantize_weight(self._weight(name), self._smoothing.get(name))
        return self._quantized[name]

    def _weight(self, name: str) -> torch.Tensor:
        return _as_linear(self._weights[name], self._kinds[name])

    @torch.inference_mode()
    def smooth(self, run: Callable[[], object]) -> None:
        """Find the smoothing of layers by the inputs that they get in `run`. All must be in float32."""
        largest = dict[str, torch.Tensor]()
        inputs = dict[str, list[str]]()  # of the layers with the same input, the first one: all of them
        last: tuple[torch.Tensor, str] | None = None

        def record(name: str, _: object, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]) -> None:
            nonlocal last
            given = args[0] if args else kwargs["input"]
            first = last[1] if last is not None and last[0] is given else name
            last = (given, first)
            sharing = inputs.setdefault(first, [])
            if name not in sharing:
                sharing.append(name)
            found = given.abs().flatten(0, -2).amax(0)
            largest[first] = torch.maximum(largest.get(first, found), found)

        self._run_hooked(run, torch.nn.Linear.register_forward_pre_hook, record)
        for first, names in inputs.items():
            weights = [self._weight(name).abs().amax(0) for name in names]
            found = _at_least(torch.stack(weights).amax(0)) / _at_least(largest[first])
            self._smoothing |= dict.fromkeys(names, found.sqrt())
        self._quantized.clear()

    def _run_hooked(
        self, run: Callable[[], object], register: Callable[..., RemovableHandle], hook: Callable[..., None]
    ) -> None:
        """Run with a hook of each layer, whose first argument is the layer's name."""
        hooks = [register(layer, partial(hook, name), with_kwargs=True) for name, layer in self._layers.items()]
        try:
            run()
        finally:
            for each in hooks:
                each.remove()

    def finish(self) -> None:
        """Free the weights that are not in use; `use` is over."""
        self._layers.clear()
        self._weights.clear()
        self._quantized.clear()

    def errors(self, run: Callable[[], object]) -> dict[str, float]:
        """How far each layer's output in int8 is from that in float32, as a share of its size, on what `run` runs.

        All layers must be in float32. A layer that `run` does not reach has no error.
        """
        sums: dict[str, torch.Tensor] = {}

        def compare(
            name: str,
            layer: LinearLayer,
            args: tuple[torch.Tensor, ...],
            kwargs: Mapping[str, torch.Tensor],
            output: torch.Tensor,
        ) -> None:
            given = args[0] if args else kwargs["input"]
            expected = output if layer.bias is None else output - layer.bias
            found = self._quantized_weight(name)
            off = linear_int8(given, found.packed, found.scales, found.smoothing, None) - expected
            size = torch.stack([off.square().sum(), expected.square().sum()])
            sums[name] = sums.get(name, torch.zeros(2)) + size

        self._run_hooked(run, torch.nn.Linear.register_forward_hook, compare)
        return {name: float((off / size.clamp(min=1e-30)).sqrt()) for name, (off, size) in sums.items()}


def find_layers(
    module: torch.nn.Module,
    measurements: Measurements | None = None,
    clock: Clock = CLOCK,
    *,
    is_timed: bool = True,
    takes_steps: bool = False,
) -> Int8Layers:
    """The linear layers of a module in float32 that can run in int8; none without oneDNN.

    is_timed: only those that are faster in int8 than prepacked. A shape is timed once, which `measurements` may know.
    takes_steps: whether the module writes texts: layers are timed with the tokens of its steps, and the vocabulary's
    product is among them where its weight is the embedding as well, which keeps its own in float.
    Blocks for some milliseconds.
    """
    from transformers.pytorch_utils import Conv1D  # a kept graph runs without transformers

    measurements = measurements or Measurements()
    found: dict[str, LinearLayer] = {}
    faster: dict[tuple[int, ...], bool] = {}
    shared = _count_uses(module)
    for name, layer in module.named_modules() if has_onednn() else ():
        kind = type(layer)
        if kind not in (torch.nn.Linear, Conv1D) or layer.weight.dtype != torch.float32:
            continue
        if min(layer.weight.shape) < MIN_FEATURES or (shared[id(layer.weight)] > 1 and not takes_steps):
            continue
        weight = _as_linear(layer.weight, kind)
        shape = tuple(weight.shape)
        if is_timed and shape not in faster:
            what = f"int8 {shape[0]} × {shape[1]}"
            rows = STEP_ROWS if takes_steps else (LARGE_ROWS,)
            faster[shape] = measurements.recall(what, bool, partial(_is_faster, weight, rows, clock))
        if not is_timed or faster[shape]:
            found[name] = layer
    return Int8Layers(found)


def _as_linear(weight: torch.Tensor, kind: type) -> torch.Tensor:
    """A layer's weight as (outputs, inputs); transformers' Conv1D stores the transpose."""
    return weight if issubclass(kind, torch.nn.Linear) else weight.t().contiguous()


def _at_least(channels: torch.Tensor) -> torch.Tensor:
    return channels.clamp(min=max(MIN_CHANNEL * float(channels.amax()), torch.finfo(torch.float32).tiny))


def _count_uses(module: torch.nn.Module) -> dict[int, int]:
    """By id of a parameter how many modules have it: a weight that is an embedding as well stays in float."""
    uses: dict[int, int] = {}
    for part in module.modules():
        for each in part.parameters(recurse=False):
            uses[id(each)] = uses.get(id(each), 0) + 1
    return uses


def _is_faster(weight: torch.Tensor, rows: Sequence[int], clock: Clock) -> bool:
    """Whether int8, with the time to quantise the inputs, is faster than the prepacked weight.

    rows: tokens of each product that is timed; the gains of all are multiplied.
    """
    packed, found, gain = prepack_weight(weight, LARGE_ROWS), quantize_weight(weight), 1.0
    for count in rows:
        given = torch.linspace(-1, 1, count * weight.shape[1]).view(count, -1)
        float_seconds = min_seconds(partial(linear_prepacked, given, packed, None), REPEATS, clock)
        int8 = partial(linear_int8, given, found.packed, found.scales, found.smoothing, None)
        gain *= float_seconds / min_seconds(int8, REPEATS, clock)
    return gain > 1
