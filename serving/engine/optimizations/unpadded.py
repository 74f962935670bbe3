"""Encoders on packed sequences: no padding is computed, and attention stays within each row.

Every other part of an encoder treats each token by itself, so only attention needs the rows. The layout is that of
FlashAttention's variable-length kernels (Dao et al., 2022): `cu_seqlens` holds the offset of each row. The head is not
changed: it gets padded states, with zeros at padding; or only the tokens that it is to read, where a task says which.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel

from serving.engine.optimizations.attention import IMPLEMENTATION, NEVER, Packing, with_blocks
from serving.engine.optimizations.cuda_graphs import CudaGraphEncoder, RecordGraph
from serving.engine.optimizations.first_token import prune

FAMILIES = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "albert", "electra", "ernie", "modernbert"}
)
"""Model types whose attention can be replaced and gets the model's keyword arguments (transformers 5.23)."""
HALF = (torch.float16, torch.bfloat16)


def can_pack(module: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this model has an encoder of `FAMILIES` and, on a GPU, a dtype that the attention kernel takes."""
    is_encoder = module.config.model_type in FAMILIES and not getattr(module.config, "is_decoder", False)
    return is_encoder and (device.type == "cpu" or dtype in HALF)


def pack(module: PreTrainedModel, *, min_bmm_tokens: int = NEVER, pruned: bool = False) -> None:
    """Let the model take the arrays of `packing.pack_rows` beside its padded inputs, and `head_indices` of
    `packing.find_head_indices`, with which the head gets states (1, indices, size); `unpack` undoes it.

    Rows of equal length may come without these arrays. A mask without them is refused, as nothing would heed it.
    min_bmm_tokens: see `attention.Packing`. pruned: compute the last layer for first tokens only, see `first_token`;
    the head then gets states (rows, 1, size).
    """
    base = module.base_model
    base.pruning_hooks = prune(base) if pruned else []
    base.forward = partial(_forward, base, base.forward, Packing(min_bmm_tokens=min_bmm_tokens))
    module.set_attn_implementation(IMPLEMENTATION)


def use_cuda_graphs(module: PreTrainedModel, record: RecordGraph) -> CudaGraphEncoder:
    """Route a packed model's encoder through CUDA graphs of short packed sequences, which the caller has recorded."""
    base = module.base_model
    encoder = CudaGraphEncoder(base.forward.args[1], record)
    base.forward = partial(_forward, base, encoder, Packing())
    return encoder


def unpack(module: PreTrainedModel) -> None:
    """Undo `pack` and `use_cuda_graphs`."""
    base = vars(module.base_model)
    base.pop("forward", None)
    for each in base.pop("pruning_hooks", []):
        each.remove()
    module.set_attn_implementation("sdpa")


def _forward(
    base: PreTrainedModel,
    plain: Callable[..., BaseModelOutput],
    packing: Packing,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    *,
    indices: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    segment_ids: torch.Tensor | None = None,
    slot_index: torch.Tensor | None = None,
    head_indices: torch.Tensor | None = None,
    **others: object,
) -> BaseModelOutput:
    """The encoder's output for padded rows, computed on the packed sequence."""
    if indices is None or positions is None:
        if attention_mask is not None:
            raise ValueError("a packed model needs indices, positions and cu_seqlens where rows are padded")
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = plain(input_ids, **types, **others, packing=packing)
        return output if head_indices is None else _read(output, head_indices)

    rows, longest = input_ids.shape
    sources = indices.clamp(max=rows * longest - 1)  # padding tokens of a bucket repeat the last one

    def packed(padded: torch.Tensor) -> torch.Tensor:
        return padded.flatten()[sources].unsqueeze(0)

    others["position_ids"] = positions.unsqueeze(0)
    embeddings: Any = getattr(base, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa's skip tokens that equal padding
        position_ids = embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx)
        others["position_ids"] = packed(position_ids)
    if token_type_ids is not None:
        others["token_type_ids"] = packed(token_type_ids)
    packing = packing._replace(cu_seqlens=cu_seqlens, max_seqlen=longest)
    if segment_ids is not None and slot_index is not None:
        packing = with_blocks(packing, segment_ids, slot_index, base.dtype)
    output = plain(packed(input_ids), packing=packing, **others)
    if head_indices is not None:
        return _read(output, head_indices)
    states = output.last_hidden_state[0]
    width, targets = longest, indices
    if base.pruning_hooks and cu_seqlens is not None:
        states, width, targets = states[:rows], 1, indices.index_select(0, cu_seqlens[:rows]) // longest
    padded = states.new_zeros(rows * width + 1, states.shape[-1]).index_copy(0, targets, states)
    output.last_hidden_state = padded[:-1].view(rows, width, states.shape[-1])
    if getattr(base, "pooler", None) is not None:
        output.pooler_output = _pool(base, output.last_hidden_state)
    return output


def _read(output: BaseModelOutput, head_indices: torch.Tensor) -> BaseModelOutput:
    output.last_hidden_state = output.last_hidden_state.flatten(0, 1).index_select(0, head_indices).unsqueeze(0)
    return output


def _pool(base: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """The encoder's own pooling; ALBERT's pooler is only its linear layer."""
    pooled: torch.Tensor
    if hasattr(base, "pooler_activation"):
        pooled = base.pooler_activation(base.pooler(states[:, 0]))
    else:
        pooled = base.pooler(states)
    return pooled
