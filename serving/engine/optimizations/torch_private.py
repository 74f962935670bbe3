"""Every private or undocumented name of torch that the engine uses, looked up at the moment of use.

A release of torch may move or drop each of them. `MissingName` then says what the engine does without it, and reaches
the code that chooses an optimisation as one more reason against it; the model still answers.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

logger = logging.getLogger("headwaiter.engine")

WITHOUT: dict[str, str] = {
    "cpu._is_amx_tile_supported": "bfloat16 is not chosen for AMX",
    "cpu._is_avx512_bf16_supported": "bfloat16 is not chosen for AVX512-BF16",
    "cpu._is_vnni_supported": "int8 is not chosen where it is only allowed",
    "ops.mkldnn._is_mkldnn_bf16_supported": "bfloat16 is not chosen on a CPU",
    "ops.mkldnn._linear_pointwise": "weights are not prepacked",
    "ops.mkldnn._reorder_linear_weight": "weights are not prepacked",
    "ops.onednn.qlinear_pointwise": "no layer runs in int8",
    "ops.onednn.qlinear_prepack": "no layer runs in int8",
    "_subclasses.fake_tensor.FakeTensor": "a prepacked layer is recorded as the operation of oneDNN that it calls",
    "_subclasses.fake_tensor.FakeTensorMode": "models are not traced",
    "utils._python_dispatch.TorchDispatchMode": "models are not traced",
    "_C._jit_set_profiling_executor": "a TorchScript graph is specialised again for new shapes, which takes time",
}
"""By name below `torch`: what happens without it."""
ALIASES = {"aten.alias.default": "aten.slice.Tensor"}
"""Operations that count as another one: a slice of everything is an alias."""


LARGE_ROWS = 256
"""Tokens of the products for which weights are laid out."""


class MissingName(Exception):
    """This release of torch lacks a private name; the message says what happens without it."""


def lookup(name: str) -> Any:
    """The object of a name of `WITHOUT`; raises MissingName."""
    found: object = torch
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise MissingName(f"torch {torch.__version__} has no torch.{name}: {WITHOUT[name]}")
    return found


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware and oneDNN may use that (`ONEDNN_MAX_CPU_ISA` may forbid it)."""
    is_fast = _is_true("cpu._is_amx_tile_supported") or _is_true("cpu._is_avx512_bf16_supported")
    return packs_bfloat16() if is_fast and has_onednn() else is_fast


def packs_bfloat16() -> bool:
    """Whether oneDNN prepacks bfloat16 weights on this CPU."""
    return has_onednn() and _is_true("ops.mkldnn._is_mkldnn_bf16_supported")


def multiplies_int8() -> bool:
    """Whether this CPU adds products of bytes in one step (AVX512-VNNI), and torch can ask oneDNN for them."""
    return has_onednn() and _is_true("cpu._is_vnni_supported")


def has_onednn() -> bool:
    """Whether this build of torch has oneDNN."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _is_true(name: str) -> bool:
    try:
        return bool(lookup(name)())
    except MissingName as error:
        logger.info("%s", error)
        return False


def disable_profiling_executor() -> None:
    """Let TorchScript run a graph as it is instead of specialising it for each shape. Changes the whole process."""
    try:
        lookup("_C._jit_set_profiling_executor")(False)
    except MissingName as error:
        logger.warning("%s", error)


def prepack_weight(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """A linear layer's weight in oneDNN's layout for about `rows` tokens. Raises MissingName, or torch's errors."""
    lookup("ops.mkldnn._linear_pointwise")
    packed: torch.Tensor = lookup("ops.mkldnn._reorder_linear_weight")(weight, rows)
    return packed


def _linear(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return result


linear_prepacked: Callable[..., torch.Tensor]
linear_prepacked = torch.jit.script_if_tracing(_linear)  # type: ignore[no-untyped-call]  # torch leaves it untyped
"""(given, weight, bias) → given · weightᵀ + bias, for a weight of `prepack_weight`. A trace cannot hold its empty list,
so it is scripted."""


def prepack_int8(levels: torch.Tensor) -> torch.Tensor:
    """An (outputs, inputs) int8 weight in oneDNN's layout. Raises MissingName, or torch's errors."""
    lookup("ops.onednn.qlinear_pointwise")
    packed: torch.Tensor = lookup("ops.onednn.qlinear_prepack")(levels, None)
    return packed


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """A packed weight in torch's layout, (outputs, inputs)."""
    dense = packed.to_dense()
    return dense.t().contiguous() if dense.dtype == torch.int8 else dense


def repack(weight: torch.Tensor) -> torch.Tensor:
    """What `unpack` was given. Raises as `prepack_weight`."""
    return prepack_int8(weight) if weight.dtype == torch.int8 else prepack_weight(weight, LARGE_ROWS)


def _linear_int8(
    given: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, smoothing: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    given = given * smoothing
    largest = given.abs().amax(-1, keepdim=True)
    levels = (given * (127 / largest.clamp(min=1e-30))).round().to(torch.int8)
    unsigned = levels.to(torch.uint8).bitwise_xor(128)  # adds 128; torch casts float to uint8 slowly
    no_bias: torch.Tensor | None = None
    zeros = scales  # of the weight; the operation does not read them
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        unsigned, 1.0, 128, weight, scales, zeros, no_bias, 1.0, 0, torch.float32, "none", [], ""
    )
    token_scales = largest * (1 / 127)
    return product * token_scales if bias is None else torch.addcmul(bias, product, token_scales)


linear_int8: Callable[..., torch.Tensor]
linear_int8 = torch.jit.script_if_tracing(_linear_int8)  # type: ignore[no-untyped-call]  # as above
"""(given, weight, scales, smoothing, bias) → (given · smoothing) · weightᵀ + bias in float32, for a weight of
`prepack_int8` and its channels' scales. Nothing in it changes a tensor in place, so that layers with the same input and
smoothing quantise it once in a graph."""


@cache
def adds_bytes_exactly() -> bool:
    """Whether sums of products of bytes lose nothing here, as with VNNI or AMX.

    Without, oneDNN adds pairs of products in 16 bits, which saturate (its guide, "Nuances of int8 Computations"). One
    product of the largest bytes shows it, whatever `ONEDNN_MAX_CPU_ISA` says. Raises MissingName, or torch's errors.
    """
    largest = torch.full((16, 64), 127, dtype=torch.int8)
    given, packed = torch.full((1, 64), 127.0), prepack_int8(largest)
    product = _linear_int8(given, packed, torch.ones(16), torch.ones(64), None)
    return bool((product == 64 * 127 * 127).all())


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a shape and no data, as in `operations_of`."""
    try:
        return isinstance(tensor, lookup("_subclasses.fake_tensor.FakeTensor"))
    except MissingName:
        return False


def operations_of(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[str]:
    """The ATen operations of a forward pass in order, run on tensors without data.

    Raises MissingName, and torch's errors where the model looks at values.
    """
    fake_mode: Any = lookup("_subclasses.fake_tensor.FakeTensorMode")
    base: Any = lookup("utils._python_dispatch.TorchDispatchMode")
    seen: list[str] = []

    class Recorder(base):  # type: ignore[misc]  # it is looked up
        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            _types: object,
            args: Sequence[object] = (),
            kwargs: Mapping[str, object] | None = None,
        ) -> object:
            seen.append(ALIASES.get(str(func), str(func)))
            return func(*args, **(kwargs or {}))

    with fake_mode(allow_non_fake_inputs=True) as fake, Recorder():
        module(**{name: fake.from_tensor(tensor) for name, tensor in inputs.items()})
    return seen
