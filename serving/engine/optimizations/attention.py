"""Attention within each row of a packed sequence, as a function that transformers' models call.

On a GPU torch's variable-length kernel takes the packed sequence in half precision. On a CPU rows of equal length go
through scaled dot-product attention (SDPA) together. Where explicit batched matrix products (BMM) are measured to be
faster, short rows share blocks whose tokens attend to their own row only, and long rows use BMM as well.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from serving.engine.optimizations.packing import bucket_size, pack_rows
from serving.engine.timing import CLOCK, Clock, min_seconds

IMPLEMENTATION = "headwaiter_packed"
BMM_TOKENS, NEVER = 40, 1 << 30
"""Length from which on rows use BMM, where that is faster; tuned, see bench/NOTES.md, "Attention and memory on a CPU".
"""
MAX_BMM_TOKENS = 1024
"""Longer rows use SDPA, as BMM needs memory for all pairs of tokens."""
TYPICAL_LENGTHS = (*(6, 8, 9, 10, 11, 12, 13, 14) * 3, 24, 32, 48, 96)
"""Lengths of the rows with which SDPA and BMM are timed: short texts with a few long ones."""
MIN_SPEEDUP = 1.1
"""BMM must be faster than SDPA by this factor."""
REPEATS = 5


class Packing(NamedTuple):
    """How a packed sequence divides into rows, on the device.

    cu_seqlens, slot_index: see `packing.pack_rows`; without cu_seqlens the rows are not packed. max_seqlen: tokens of
    the longest row. min_bmm_tokens: rows from this length on use BMM. block_mask: (blocks, size, size), added to a
    block's attention scores, minus infinity between tokens of different rows. token_index: (blocks × size,) int64, the
    packed token in each slot.
    """

    cu_seqlens: torch.Tensor | None = None
    max_seqlen: int = 0
    min_bmm_tokens: int = NEVER
    block_mask: torch.Tensor | None = None
    token_index: torch.Tensor | None = None
    slot_index: torch.Tensor | None = None


def with_blocks(packing: Packing, segment_ids: torch.Tensor, slot_index: torch.Tensor, dtype: torch.dtype) -> Packing:
    """`packing` with attention blocks. segment_ids, slot_index: see `packing.pack_rows`. dtype: of the model."""
    is_same_row = segment_ids.unsqueeze(2) == segment_ids.unsqueeze(1)
    block_mask = torch.zeros_like(is_same_row, dtype=dtype).masked_fill(~is_same_row, -torch.inf)
    first_token = torch.zeros_like(segment_ids, dtype=torch.int64).flatten()  # fills empty slots, which nothing reads
    token_index = first_token.index_copy(0, slot_index, torch.arange(slot_index.shape[0], device=slot_index.device))
    return packing._replace(block_mask=block_mask, token_index=token_index, slot_index=slot_index)


def _attention(
    _module: object,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    packing: Packing = Packing(),  # noqa: B008  # never changes
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: object,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface: query, key, value (rows, heads, tokens, size) → (rows, tokens, heads, size).

    sliding_window: a token attends to tokens nearer than this on either side.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    window = -1 if sliding_window is None else sliding_window - 1
    cu_seqlens, max_seqlen, min_bmm_tokens, *blocks = packing
    if cu_seqlens is None:
        return attend_rows(query, key, value, scale, window, min_bmm_tokens).transpose(1, 2), None
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
        offsets, longest, sides = (cu_seqlens, cu_seqlens), (max_seqlen, max_seqlen), (window, window)
        output = varlen_attn(query, key, value, *offsets, *longest, scale=scale, window_size=sides)
        return output.unsqueeze(0), None  # type: ignore[union-attr]  # one tensor, as no other is asked for
    return attend_packed(query, key, value, cu_seqlens, *blocks, scale, window, min_bmm_tokens), None


def _attend_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int,
    min_bmm_tokens: int,
    max_bmm_tokens: int = MAX_BMM_TOKENS,  # a script reads a constant only as a default
) -> torch.Tensor:
    """Attention within whole rows of one length. window: how far a token sees on either side, -1 for everywhere."""
    rows, heads, length, size = query.size(0), query.size(1), query.size(2), query.size(3)
    if window >= 0 and length > window + 1:
        positions = torch.arange(length, device=query.device)
        is_near = (positions.unsqueeze(0) - positions.unsqueeze(1)).abs() <= window
        return scaled_dot_product_attention(query, key, value, attn_mask=is_near, scale=scale)
    if length < min_bmm_tokens or length > max_bmm_tokens:
        return scaled_dot_product_attention(query, key, value, scale=scale)
    padding = bucket_size(length) - length
    if padding > 0:
        edge = [0, 0, 0, padding]
        query, key, value = pad(query, edge), pad(key, edge), pad(value, edge)
    shape = [rows * heads, length + padding, size]
    scores = torch.bmm(query.reshape(shape) * scale, key.reshape(shape).transpose(1, 2))
    if padding > 0:
        scores[:, :, length:].fill_(-float("inf"))
    value = value.reshape(shape)
    return torch.bmm(scores.softmax(-1), value).view([rows, heads, length + padding, size])[:, :, :length]


def _attend_in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: torch.Tensor,
    token_index: torch.Tensor,
    slot_index: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention of short rows: (heads, tokens, size) each → (tokens of short rows, heads, size)."""
    heads, blocks, size = query.size(0), block_mask.size(0), block_mask.size(1)
    shape = [heads * blocks, size, query.size(2)]
    query, key = query.index_select(1, token_index), key.index_select(1, token_index)
    value = value.index_select(1, token_index)
    scores = torch.bmm(query.view(shape), key.view(shape).transpose(1, 2)).view([heads, blocks, size, size])
    weights = torch.add(block_mask, scores, alpha=scale).softmax(-1).view([heads * blocks, size, size])
    output = torch.bmm(weights, value.view(shape)).view([heads, blocks * size, query.size(2)])
    return output.transpose(0, 1).index_select(0, slot_index)


def _attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    block_mask: torch.Tensor | None,
    token_index: torch.Tensor | None,
    slot_index: torch.Tensor | None,
    scale: float,
    window: int,
    min_bmm_tokens: int,
) -> torch.Tensor:
    """Attention of a packed sequence: the rows in blocks, then the others, those of equal length together."""
    heads, size = query.size(1), query.size(3)
    output = torch.empty([1, query.size(2), heads, size], dtype=query.dtype, device=query.device)
    offsets: list[int] = cu_seqlens.to(torch.int64).tolist()
    output[0, offsets[-1] :].zero_()
    first = 0
    if block_mask is not None and token_index is not None and slot_index is not None:
        short = slot_index.size(0)
        if short > 0 and (window < 0 or block_mask.size(1) <= window + 1):
            output[0, :short] = _attend_in_blocks(
                query[0], key[0], value[0], block_mask, token_index, slot_index, scale
            )
            while offsets[first] < short:
                first += 1
    while offsets[first] < offsets[-1]:
        length = offsets[first + 1] - offsets[first]
        last = first + 1
        while last < len(offsets) - 1 and offsets[last + 1] - offsets[last] == length:
            last += 1
        begin, end, shape = offsets[first], offsets[last], [heads, last - first, length, size]
        part = _attend_rows(
            query[0, :, begin:end].view(shape).transpose(0, 1),
            key[0, :, begin:end].view(shape).transpose(0, 1),
            value[0, :, begin:end].view(shape).transpose(0, 1),
            scale,
            window,
            min_bmm_tokens,
        )
        output[0, begin:end] = part.transpose(1, 2).flatten(0, 1)
        first = last
    return output


attend_rows: Callable[..., torch.Tensor]
attend_rows = torch.jit.script_if_tracing(_attend_rows)  # type: ignore[no-untyped-call]  # torch leaves it untyped
attend_packed: Callable[..., torch.Tensor]
attend_packed = torch.jit.script_if_tracing(_attend_packed)  # type: ignore[no-untyped-call]  # as above
"""A traced graph keeps their loops and conditions."""


@torch.inference_mode()
def find_min_bmm_tokens(module: PreTrainedModel, dtype: torch.dtype, clock: Clock = CLOCK) -> int:
    """The length from which on rows should use BMM on this CPU, and short rows blocks; `NEVER` for none.

    Blocks for some milliseconds.
    """
    heads = module.config.num_attention_heads
    width = module.config.hidden_size // heads * heads
    packed = pack_rows(TYPICAL_LENGTHS, blocks=True)
    cu_seqlens, segment_ids, slot_index = (
        torch.from_numpy(packed[name]) for name in ("cu_seqlens", "segment_ids", "slot_index")
    )
    states = torch.zeros((1, sum(TYPICAL_LENGTHS), heads, width // heads), dtype=dtype).transpose(1, 2)

    def seconds_with(packing: Packing) -> float:
        return min_seconds(partial(_attention, module, states, states, states, None, packing), REPEATS, clock)

    sdpa = seconds_with(Packing(cu_seqlens))
    bmm = seconds_with(with_blocks(Packing(cu_seqlens, min_bmm_tokens=BMM_TOKENS), segment_ids, slot_index, dtype))
    return BMM_TOKENS if sdpa >= MIN_SPEEDUP * bmm else NEVER


def register_attention() -> None:
    """Let transformers find the packed attention as `IMPLEMENTATION`. Changes its table for the whole process."""
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attention)
