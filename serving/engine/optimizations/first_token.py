"""An encoder's last layer for the first token of each row only, where the head reads no other.

Keys and values are of all tokens; what comes behind attention, most of a layer, treats a token by itself and so need
not be computed for those that nobody reads. Of six layers that leaves an eighth of all multiplications out.
"""

import threading
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch.utils.hooks import RemovableHandle

from serving.engine.optimizations.attention import Packing


class _Layout(NamedTuple):
    """Where, in a model type's code: its layers; by which module of one all tokens go in; by which they come out."""

    layers: str
    enter: str
    leave: str


LAYOUTS = (
    _Layout("encoder.layer", "attention.self", "attention.output.dense"),
    _Layout("transformer.layer", "attention", "attention.out_lin"),  # DistilBERT
    _Layout("layers", "attn_norm", "attn.Wo"),  # ModernBERT
)
"""Of the families of `unpadded` but ALBERT, whose layers are one and the same (transformers 5.23)."""


class _Under(threading.local):
    """What a thread's forward pass through the last layer needs: states (1 or rows, tokens, size) of all tokens."""

    states: torch.Tensor
    cuts: torch.Tensor | None


def can_narrow(base: Any) -> bool:
    """Whether this encoder has a last layer of its own with a known layout."""
    return _find(base) is not None


def narrow(base: Any) -> list[RemovableHandle]:
    """Let a packed encoder give the states of first tokens only; what is returned undoes it.

    They are (1, rows, size), in the order of the line, or (rows, 1, size) of rows of equal length, which have no line.
    """
    found = _find(base)
    if found is None:
        raise ValueError(f"{type(base).__name__} has no last layer with a known layout: ask `can_narrow` before")
    layer, enter, leave = found
    under = _Under()

    def begin(_: Any, args: Any, kwargs: Any) -> Any:
        packing: Packing = kwargs["packing"]
        under.states, under.cuts = args[0], packing.cuts
        return (_first(args[0], under.cuts), *args[1:]), kwargs

    def attend(_: Any, args: Any) -> Any:
        states = under.states
        del under.states  # so that they are freed in time
        return states, *args[1:]

    return [
        layer.register_forward_pre_hook(begin, with_kwargs=True),
        enter.register_forward_pre_hook(attend),
        leave.register_forward_pre_hook(lambda _, args: (_first(args[0], under.cuts), *args[1:])),
    ]


def _first(states: torch.Tensor, cuts: torch.Tensor | None) -> torch.Tensor:
    if cuts is None:
        return states[:, :1]
    begins = cuts[:-1].clamp(
        max=states.shape[1] - 1
    )  # rows that are not there begin behind the line, see `cuda_graphs`
    return states.index_select(1, begins)


def _find(base: Any) -> tuple[Any, Any, Any] | None:
    for layout in LAYOUTS:
        try:
            layer = attrgetter(layout.layers)(base)[-1]
            return layer, attrgetter(layout.enter)(layer), attrgetter(layout.leave)(layer)
        except (AttributeError, IndexError):
            continue
    return None
