"""First-token pruning: an encoder's last layer for the first token of each row only, where the head reads no other.

Keys and values need all tokens. What follows attention, most of a layer, treats each token by itself and is skipped for
tokens that no head reads. With six layers that saves an eighth of all multiplications.
"""

import threading
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch.utils.hooks import RemovableHandle
from transformers.modeling_utils import PreTrainedModel

from serving.engine.optimizations.attention import Packing


class _Layout(NamedTuple):
    """Attribute paths in a model type's code: the layers; in a layer, the module that all tokens enter, and the one
    that they leave by.
    """

    layers: str
    enter: str
    leave: str


class _LastLayer(NamedTuple):
    """The modules of a `_Layout`."""

    layer: torch.nn.Module
    enter: torch.nn.Module
    leave: torch.nn.Module


LAYOUTS = (
    _Layout("encoder.layer", "attention.self", "attention.output.dense"),
    _Layout("transformer.layer", "attention", "attention.out_lin"),  # DistilBERT
    _Layout("layers", "attn_norm", "attn.Wo"),  # ModernBERT
)
"""Layouts of the families of `unpadded` except ALBERT, whose layers are one module (transformers 5.23)."""


class _ThreadState(threading.local):
    """The inputs of one thread's pass through the last layer. states: (1 or rows, tokens, size) of all tokens."""

    states: torch.Tensor
    cu_seqlens: torch.Tensor | None


def can_prune(base: PreTrainedModel) -> bool:
    """Whether this encoder has a last layer of its own with a known layout."""
    return _find(base) is not None


def prune(base: PreTrainedModel) -> list[RemovableHandle]:
    """Let a packed encoder return the states of first tokens only; removing the returned hooks undoes it.

    The states are (1, rows, size) in packed order, or (rows, 1, size) for rows of equal length that are not packed.
    """
    found = _find(base)
    if found is None:
        raise ValueError(f"{type(base).__name__} has no last layer with a known layout: ask `can_prune` before")
    state = _ThreadState()

    def begin(_: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> tuple[object, dict[str, Any]]:
        packing: Packing = kwargs["packing"]
        state.states, state.cu_seqlens = args[0], packing.cu_seqlens
        return (_first(args[0], state.cu_seqlens), *args[1:]), kwargs

    def attend(_: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states = state.states
        del state.states  # frees the memory in time
        return states, *args[1:]

    return [
        found.layer.register_forward_pre_hook(begin, with_kwargs=True),
        found.enter.register_forward_pre_hook(attend),
        found.leave.register_forward_pre_hook(lambda _, args: (_first(args[0], state.cu_seqlens), *args[1:])),
    ]


def _first(states: torch.Tensor, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    if cu_seqlens is None:
        return states[:, :1]
    offsets = cu_seqlens[:-1].clamp(max=states.shape[1] - 1)  # padding rows start behind the last token
    return states.index_select(1, offsets)


def _find(base: PreTrainedModel) -> _LastLayer | None:
    for layout in LAYOUTS:
        try:
            layer = attrgetter(layout.layers)(base)[-1]
            return _LastLayer(layer, attrgetter(layout.enter)(layer), attrgetter(layout.leave)(layer))
        except (AttributeError, IndexError):
            continue
    return None
