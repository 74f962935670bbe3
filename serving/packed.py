"""Rows without padding: the tokens of a batch stand in one line, and attention looks within each row.

Everything else in an encoder treats a token by itself, so padding is there for attention's sake alone. The layout is
that of FlashAttention's variable-length kernels (Dao et al., 2022): where each row begins, and where the last one ends.
On a GPU such a kernel takes the whole line in half precision; elsewhere rows of equal length attend together.
The head is not touched: it gets its states in padded places, with zeros between them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from serving.replayed import Record, Replayed

FAMILIES = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "albert", "electra", "ernie", "modernbert"}
)
"""Model types whose attention can be replaced and passes on what it is called with (transformers 5.23)."""
IMPLEMENTATION = "headwaiter_packed"
HALF = (torch.float16, torch.bfloat16)


def can_pack(module: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this model has a family's encoder and, on a GPU, a dtype that its kernel takes."""
    is_encoder = module.config.model_type in FAMILIES and not getattr(module.config, "is_decoder", False)
    return is_encoder and (device.type == "cpu" or dtype in HALF)


def pack(module: Any) -> None:
    """Let the model be called with what `padding.pack_rows` gives, beside its padded rows; `unpack` undoes it.

    Rows of equal length may come without; a mask alone is refused, as nothing here would heed it.
    """
    base = module.base_model
    base.forward = partial(_forward, base, base.forward)
    module.set_attn_implementation(IMPLEMENTATION)


def replay(module: Any, record: Record) -> Replayed:
    """Let a packed model's encoder go through what is returned."""
    base = module.base_model
    replayed = Replayed(base.forward.args[1], record)
    base.forward = partial(_forward, base, replayed)
    return replayed


def unpack(module: Any) -> None:
    """As it was before `pack`."""
    del module.base_model.forward
    module.set_attn_implementation("sdpa")


def _forward(
    base: Any,
    plain: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    *,
    places: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    cuts: torch.Tensor | None = None,
    **others: Any,
) -> Any:
    """The encoder's output for padded rows, computed without the padding."""
    if places is None or positions is None:
        if attention_mask is not None:
            raise ValueError("a packed model needs places, positions and cuts where rows are padded")
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return plain(input_ids, **types, **others)

    def line(padded: torch.Tensor) -> torch.Tensor:
        return padded.flatten()[places].unsqueeze(0)

    rows, longest = input_ids.shape
    others["position_ids"] = positions.unsqueeze(0)
    embeddings: Any = getattr(base, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa's do not count what looks like padding
        others["position_ids"] = line(embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx))
    if token_type_ids is not None:
        others["token_type_ids"] = line(token_type_ids)
    output = plain(line(input_ids), packing=(cuts, longest), **others)
    states = output.last_hidden_state[0]
    padded = states.new_zeros(rows * longest, states.shape[-1]).index_copy(0, places, states)
    output.last_hidden_state = padded.view(rows, longest, states.shape[-1])
    if getattr(base, "pooler", None) is not None:
        output.pooler_output = _pool(base, output.last_hidden_state)
    return output


def _pool(base: Any, states: torch.Tensor) -> Any:
    """The encoder's own pooling; ALBERT's pooler is only its linear layer."""
    if hasattr(base, "pooler_activation"):
        return base.pooler_activation(base.pooler(states[:, 0]))
    return base.pooler(states)


def _attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    packing: tuple[torch.Tensor, int] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query, key, value (rows, heads, tokens, size) → (rows, tokens, heads, size).

    sliding_window: a token sees those nearer than this on either side.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    window = -1 if sliding_window is None else sliding_window - 1
    if packing is None:
        return attend(query, key, value, scale, window).transpose(1, 2), None
    cuts, longest = packing
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
        near = (window, window)
        found = varlen_attn(query, key, value, cuts, cuts, longest, longest, scale=scale, window_size=near)
        return found.unsqueeze(0), None  # type: ignore[union-attr]  # one tensor, as no other is asked for
    return attend_by_length(query, key, value, cuts, scale, window), None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int) -> torch.Tensor:
    """Within whole rows; window: how far a token sees, -1 for everywhere."""
    if window >= 0 and query.size(2) > window + 1:
        places = torch.arange(query.size(2), device=query.device)
        near = (places.unsqueeze(0) - places.unsqueeze(1)).abs() <= window
        return scaled_dot_product_attention(query, key, value, attn_mask=near, scale=scale)
    return scaled_dot_product_attention(query, key, value, scale=scale)


def _attend_by_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cuts: torch.Tensor, scale: float, window: int
) -> torch.Tensor:
    """Rows of the line, those of equal length together."""
    heads, tokens, size = query.size(1), query.size(2), query.size(3)
    found = torch.empty([1, tokens, heads, size], dtype=query.dtype, device=query.device)
    edges: list[int] = cuts.to(torch.int64).tolist()
    first = 0
    while first < len(edges) - 1:
        length = edges[first + 1] - edges[first]
        last = first + 1
        while last < len(edges) - 1 and edges[last + 1] - edges[last] == length:
            last += 1
        begin, end, shape = edges[first], edges[last], [heads, last - first, length, size]
        part = _attend(
            query[0, :, begin:end].view(shape).transpose(0, 1),
            key[0, :, begin:end].view(shape).transpose(0, 1),
            value[0, :, begin:end].view(shape).transpose(0, 1),
            scale,
            window,
        )
        found[0, begin:end] = part.transpose(1, 2).flatten(0, 1)
        first = last
    return found


attend: Callable[..., torch.Tensor]
attend = torch.jit.script_if_tracing(_attend)  # type: ignore[no-untyped-call]  # torch leaves it untyped
attend_by_length: Callable[..., torch.Tensor]
attend_by_length = torch.jit.script_if_tracing(_attend_by_length)  # type: ignore[no-untyped-call]  # as above
"""Their loops and conditions stay such in a graph that is traced."""

ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attention)
