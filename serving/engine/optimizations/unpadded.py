"""Encoders without padding: the tokens of all rows stand in one line, and attention looks within each row.

Everything else in an encoder treats a token by itself, so padding is there for attention's sake alone. The layout is
that of FlashAttention's variable-length kernels (Dao et al., 2022): where each row begins, and where the last one ends.
The head is not touched: it gets its states in padded places, with zeros between them.
"""

from functools import partial
from typing import Any

import torch

from serving.engine.optimizations.attention import IMPLEMENTATION, NEVER, Packing, with_blocks
from serving.engine.optimizations.cuda_graphs import Record, Replayed
from serving.engine.optimizations.first_token import narrow

FAMILIES = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "albert", "electra", "ernie", "modernbert"}
)
"""Model types whose attention can be replaced and passes on what it is called with (transformers 5.23)."""
HALF = (torch.float16, torch.bfloat16)


def can_pack(module: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this model has a family's encoder and, on a GPU, a dtype that its kernel takes."""
    is_encoder = module.config.model_type in FAMILIES and not getattr(module.config, "is_decoder", False)
    return is_encoder and (device.type == "cpu" or dtype in HALF)


def pack(module: Any, *, least: int = NEVER, narrowed: bool = False) -> None:
    """Let the model be called with what `packing.pack_rows` gives, beside its padded rows; `unpack` undoes it.

    Rows of equal length may come without; a mask alone is refused, as nothing here would heed it. least: tokens from
    which on a row attends by products. narrowed: as the head reads first tokens only, see `first_token`; it is given
    states (rows, 1, size).
    """
    base = module.base_model
    base.narrowing = narrow(base) if narrowed else []
    base.forward = partial(_forward, base, base.forward, Packing(least=least))
    module.set_attn_implementation(IMPLEMENTATION)


def replay(module: Any, record: Record) -> Replayed:
    """Let a packed model's encoder go through what is returned."""
    base = module.base_model
    replayed = Replayed(base.forward.args[1], record)
    base.forward = partial(_forward, base, replayed, Packing())
    return replayed


def unpack(module: Any) -> None:
    """As it was before `pack`."""
    base = vars(module.base_model)
    base.pop("forward", None)
    for each in base.pop("narrowing", []):
        each.remove()
    module.set_attn_implementation("sdpa")


def _forward(
    base: Any,
    plain: Any,
    packing: Packing,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    *,
    places: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    cuts: torch.Tensor | None = None,
    owners: torch.Tensor | None = None,
    slots: torch.Tensor | None = None,
    **others: Any,
) -> Any:
    """The encoder's output for padded rows, computed without the padding."""
    if places is None or positions is None:
        if attention_mask is not None:
            raise ValueError("a packed model needs places, positions and cuts where rows are padded")
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return plain(input_ids, **types, **others, packing=packing)

    rows, longest = input_ids.shape
    taken = places.clamp(max=rows * longest - 1)  # by those that are nobody's, whatever

    def line(padded: torch.Tensor) -> torch.Tensor:
        return padded.flatten()[taken].unsqueeze(0)

    others["position_ids"] = positions.unsqueeze(0)
    embeddings: Any = getattr(base, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa's do not count what looks like padding
        others["position_ids"] = line(embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx))
    if token_type_ids is not None:
        others["token_type_ids"] = line(token_type_ids)
    packing = packing._replace(cuts=cuts, longest=longest)
    if owners is not None and slots is not None:
        packing = with_blocks(packing, owners, slots, base.dtype)
    output = plain(line(input_ids), packing=packing, **others)
    states = output.last_hidden_state[0]
    width, targets = longest, places
    if base.narrowing and cuts is not None:
        states, width, targets = states[:rows], 1, places.index_select(0, cuts[:rows]) // longest
    padded = states.new_zeros(rows * width + 1, states.shape[-1]).index_copy(0, targets, states)
    output.last_hidden_state = padded[:-1].view(rows, width, states.shape[-1])
    if getattr(base, "pooler", None) is not None:
        output.pooler_output = _pool(base, output.last_hidden_state)
    return output


def _pool(base: Any, states: torch.Tensor) -> Any:
    """The encoder's own pooling; ALBERT's pooler is only its linear layer."""
    if hasattr(base, "pooler_activation"):
        return base.pooler_activation(base.pooler(states[:, 0]))
    return base.pooler(states)
