"""Attention within each row of a line of tokens, as transformers' models call it.

On a GPU that is torch's kernel for a whole line in half precision. On a CPU rows of equal length attend together, in
torch's kernel for rows; where that is found to be slow, short rows fill blocks and attend there by products of all
tokens of a block, each to those of its own row, and long ones by products, too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from serving.engine.optimizations.packing import pack_rows, round_up
from serving.engine.timing import CLOCK, Clock, least_seconds

IMPLEMENTATION = "headwaiter_packed"
PRODUCT_TOKENS, NEVER = 40, 1 << 30
"""Length from which on a row attends by products, where these are faster; ours."""
MOST_TOKENS = 1024
"""Longer rows do not, as products need memory for all pairs of tokens; ours."""
TYPICAL = (*(6, 8, 9, 10, 11, 12, 13, 14) * 3, 24, 32, 48, 96)
"""Lengths of the rows with which ways to attend are measured; ours."""
FASTER = 1.1
"""Products must be faster by this."""
REPEATS = 5


class Packing(NamedTuple):
    """How a line is cut into rows. cuts, slots: as `packing.pack_rows` has them, on the device.

    longest: tokens of a row. least: tokens from which on a row attends by products. near: (blocks, size, size), what is
    added to the scores of a block's tokens, minus infinity between rows. tokens: (blocks × size,) int64, the token of
    the line in each slot.
    """

    cuts: torch.Tensor | None = None
    longest: int = 0
    least: int = NEVER
    near: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    slots: torch.Tensor | None = None


def with_blocks(packing: Packing, owners: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype) -> Packing:
    """With blocks of short rows. owners, slots: as `packing.pack_rows` has them. dtype: of the model."""
    is_near = owners.unsqueeze(2) == owners.unsqueeze(1)
    near = torch.zeros_like(is_near, dtype=dtype).masked_fill(~is_near, -torch.inf)
    nobodys = torch.zeros_like(owners, dtype=torch.int64).flatten()  # a token to compute with; nothing comes of it
    tokens = nobodys.index_copy(0, slots, torch.arange(slots.shape[0], device=slots.device))
    return packing._replace(near=near, tokens=tokens, slots=slots)


def _attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    packing: Packing = Packing(),  # noqa: B008  # never changes
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query, key, value (rows, heads, tokens, size) → (rows, tokens, heads, size).

    sliding_window: a token sees those nearer than this on either side.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    window = -1 if sliding_window is None else sliding_window - 1
    cuts, longest, least, near, tokens, slots = packing
    if cuts is None:
        return attend(query, key, value, scale, window, least).transpose(1, 2), None
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
        sides = (window, window)
        found = varlen_attn(query, key, value, cuts, cuts, longest, longest, scale=scale, window_size=sides)
        return found.unsqueeze(0), None  # type: ignore[union-attr]  # one tensor, as no other is asked for
    return attend_line(query, key, value, cuts, near, tokens, slots, scale, window, least), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int,
    least: int,
    most: int = MOST_TOKENS,  # a script reads no constant but so
) -> torch.Tensor:
    """Within whole rows; window: how far a token sees, -1 for everywhere. least, most: of rows that use products."""
    rows, heads, length, size = query.size(0), query.size(1), query.size(2), query.size(3)
    if window >= 0 and length > window + 1:
        places = torch.arange(length, device=query.device)
        near = (places.unsqueeze(0) - places.unsqueeze(1)).abs() <= window
        return scaled_dot_product_attention(query, key, value, attn_mask=near, scale=scale)
    if length < least or length > most:
        return scaled_dot_product_attention(query, key, value, scale=scale)
    more = round_up(length) - length
    if more > 0:
        edge = [0, 0, 0, more]
        query, key, value = pad(query, edge), pad(key, edge), pad(value, edge)
    shape = [rows * heads, length + more, size]
    scores = torch.bmm(query.reshape(shape) * scale, key.reshape(shape).transpose(1, 2))
    if more > 0:
        scores[:, :, length:].fill_(-float("inf"))
    value = value.reshape(shape)
    return torch.bmm(scores.softmax(-1), value).view([rows, heads, length + more, size])[:, :, :length]


def _attend_in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    near: torch.Tensor,
    tokens: torch.Tensor,
    slots: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """(heads, tokens, size) each → (tokens of short rows, heads, size)."""
    heads, blocks, size = query.size(0), near.size(0), near.size(1)
    shape = [heads * blocks, size, query.size(2)]
    query, key, value = query.index_select(1, tokens), key.index_select(1, tokens), value.index_select(1, tokens)
    scores = torch.bmm(query.view(shape), key.view(shape).transpose(1, 2)).view([heads, blocks, size, size])
    weights = torch.add(near, scores, alpha=scale).softmax(-1).view([heads * blocks, size, size])
    found = torch.bmm(weights, value.view(shape)).view([heads, blocks * size, query.size(2)])
    return found.transpose(0, 1).index_select(0, slots)


def _attend_line(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cuts: torch.Tensor,
    near: torch.Tensor | None,
    tokens: torch.Tensor | None,
    slots: torch.Tensor | None,
    scale: float,
    window: int,
    least: int,
) -> torch.Tensor:
    """Rows of the line: those in blocks, then the others, those of equal length together."""
    heads, size = query.size(1), query.size(3)
    found = torch.empty([1, query.size(2), heads, size], dtype=query.dtype, device=query.device)
    edges: list[int] = cuts.to(torch.int64).tolist()
    found[0, edges[-1] :].zero_()
    first = 0
    if near is not None and tokens is not None and slots is not None:
        short = slots.size(0)
        if short > 0 and (window < 0 or near.size(1) <= window + 1):
            found[0, :short] = _attend_in_blocks(query[0], key[0], value[0], near, tokens, slots, scale)
            while edges[first] < short:
                first += 1
    while edges[first] < edges[-1]:
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
            least,
        )
        found[0, begin:end] = part.transpose(1, 2).flatten(0, 1)
        first = last
    return found


attend: Callable[..., torch.Tensor]
attend = torch.jit.script_if_tracing(_attend)  # type: ignore[no-untyped-call]  # torch leaves it untyped
attend_line: Callable[..., torch.Tensor]
attend_line = torch.jit.script_if_tracing(_attend_line)  # type: ignore[no-untyped-call]  # as above
"""Their loops and conditions stay such in a graph that is traced."""


@torch.inference_mode()
def find_least(module: Any, dtype: torch.dtype, clock: Clock = CLOCK) -> int:
    """The length from which on rows had better attend by products on this CPU, short ones in blocks; `NEVER` for none.

    Blocks for some ms.
    """
    heads = module.config.num_attention_heads
    width = module.config.hidden_size // heads * heads
    line = pack_rows(TYPICAL, blocks=True)
    cuts, owners, slots = (torch.from_numpy(line[name]) for name in ("cuts", "owners", "slots"))
    states = torch.zeros((1, sum(TYPICAL), heads, width // heads), dtype=dtype).transpose(1, 2)
    forms = (Packing(cuts), with_blocks(Packing(cuts, least=PRODUCT_TOKENS), owners, slots, dtype))
    took = [
        least_seconds(partial(_attention, module, states, states, states, None, packing), REPEATS, clock)
        for packing in forms
    ]
    return PRODUCT_TOKENS if took[0] >= FASTER * took[1] else NEVER


def register_attention() -> None:
    """Let transformers find the packed attention as `IMPLEMENTATION`. Changes its table for the whole process."""
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attention)
