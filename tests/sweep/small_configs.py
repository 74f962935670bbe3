"""A small configuration of any architecture, made by rule from its configuration class.

Every field that says a size is set to one small value for its kind, so that sizes which must agree still do. Kinds of
layers are each kept once. A short table has what no rule says.
"""

import dataclasses
import math
import re
from typing import Any

TOKENS = 320
"""Positions of every model here that has a limit."""
HIDDEN, HEADS = 32, 2
SPARE = 24
"""Rows of the embedding beyond the tokenizer's ids: for tokens that stand for images and the like."""
_RULES: tuple[tuple[str, int], ...] = (
    # what is left as it is: 0 stands for that
    (r".*(kernel|stride|padding|conv_dim|groups|channels|ratio|factor|offset|period|interval|step|cycles).*", 0),
    (r"(.*type_vocab_size|.*dt_rank|num_hash|seed|n_langs|num_labels|.*buckets)", 0),
    (r"(num_nextn_predict_layers|num_mtp_layers|num_kv_shared_layers|num_hidden_groups|inner_group_num)", 0),
    (r"(first_k_dense_replace|num_dense_layers|moe_layer_start_index|num_mem_blocks)", 0),
    (r"linear_num_key_heads|linear_num_value_heads|index_n_heads", HEADS),
    # state spaces: twice the width
    (r".*(d_state|state_size)", 8),
    (r"mamba_(d_head|head_dim)", 16),
    (r"mamba_(n|num)_heads|n_mamba_heads", 4),
    (r"mamba_d_ssm", 2 * HIDDEN),
    # attention
    (r".*(key_value_heads|kv_heads)", HEADS),
    (r"qk_rope_head_dim|rotary_dim|index_head_dim", 8),
    (r"qk_head_dim", 24),
    (r".*(head_dim|head_size|d_head|dim_head|d_kv|kv_channels)", HIDDEN // HEADS),
    (r".*(num_)?(attention_)?heads?(_num)?|.*n_heads?|.*num_heads|.*(query|key|value)_heads", HEADS),
    (r".*lora_rank|.*_rank", 16),
    (r"index_topk", 16),
    (r".*(sliding_window|local_attention|attention_chunk_size|window_size|keep_window_size).*", 8),
    (r"attention_window|block_size|global_block_size|index_block_size", 8),
    (r"local_radius", 7),
    (r"num_random_blocks|index_topk_blocks", 2),
    (r".*attn_chunk_length", 8),
    # layers
    (
        r"(num_)?(hidden_|encoder_|decoder_|t2u_.*|speech_.*)?layers(_per_stack)?|n_layers?|num_hidden_layers|[lrx]_layers",
        2,
    ),
    (r"num_(encoder|decoder|sparse_encoder|sparse_decoder|encoder_)_?layers|depth", 2),
    # experts
    (r".*experts_per_tok.*|moe_topk|moe_k|top_k_experts|num_selected_experts", 2),
    (r".*(num|n|routed|local)_experts|zero_expert_num|expert_capacity", 4),
    (r".*(shared_experts)|n_group|topk_group", 1),
    (r".*chunk_size", 8),
    # tokens and positions
    (r".*(position_embeddings|n_positions|n_ctx|max_seq_len|seq_length|max_source_positions).*", TOKENS),
    (r"entity_vocab_size|pronunciation_vocab_size|shape_vocab_size|.*hash_byte_group_vocab", 64),
    (r"ngram_vocab_size_base", 512),
    # images
    (r"image_size|input_size|img_size", 32),
    (r"patch_size", 8),
    # widths, last: their names are the most general
    (
        r".*(intermediate|ffn|d_ff|dim_ff|ff_size|dff|feed_forward|d_inner|inner_dim|mlp_dim|hidden_dim$|n_inner).*",
        2 * HIDDEN,
    ),
    (
        r".*(hidden_size|d_model|n_embd|emb(ed)?_dim|embedding_(size|dim)|emb_size|adapter_input_size|pooler_output_size|proj(ection)?_dim)",
        HIDDEN,
    ),
    (r"dim|.*embed_dim|coordinate_size|.*_dim", HIDDEN),
)
_SPECIAL = re.compile(r".*(_token_id|_token_index|_index|pad_id)$")
_OTHER_VOCABULARIES = ("type_vocab_size", "task_type_vocab_size", "entity_vocab_size", "ngram_vocab_size_base")


def _sections(*sizes: int) -> dict[str, Any]:
    """Rotary positions in time, height and width."""
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(sizes)}


EXCEPTIONS: dict[str, dict[str, Any]] = {
    "reformer": {"axial_pos_shape": [16, 20], "axial_pos_embds_dim": [16, 16], "hash_seed": 0},
    "esm": {"vocab_size": 400, "pad_token_id": 0, "mask_token_id": 4},
    "longformer": {"sep_token_id": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lilt": {"hidden_size": 48},
    "falcon_h1": {"mamba_d_head": 16},
    "mamba2": {"num_heads": 4, "n_groups": 1},
    "nemotron_h": {"n_groups": 1},
    "glm4v_text": {"rope_parameters": _sections(2, 3, 3)},
    "glm4v_moe_text": {"rope_parameters": {**_sections(1, 1, 2), "partial_rotary_factor": 0.5}},
    "qwen2_vl_text": {"rope_parameters": _sections(2, 3, 3)},
    "qwen2_5_vl_text": {"rope_parameters": _sections(2, 3, 3)},
    "paddleocr_vl_text": {"rope_parameters": _sections(2, 3, 3)},
    "hunyuan_vl_text": {
        "head_dim": HIDDEN // HEADS,
        "rope_parameters": _sections(2, 2, 2, 2),
    },
    "longcat_flash": {"head_dim": 8},
    "hrm_text": {"num_layers_per_stack": None},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "ministral": {"head_dim": HIDDEN // HEADS},
    "nemotron": {"num_key_value_heads": HEADS},
    "levit": {"patch_size": 16, "image_size": 64},
    "donut-swin": {"patch_size": 4, "image_size": 64, "window_size": 2},
    "swin": {"patch_size": 4, "image_size": 64, "window_size": 2},
    "swinv2": {"patch_size": 4, "image_size": 64, "window_size": 2},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "image_size": 64},
    "mobilevitv2": {"image_size": 64},
    "hgnet_v2": {"hidden_sizes": None},
    "efficientnet": {"hidden_dim": 2560},
    "bit": {"num_groups": 8},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": HIDDEN // HEADS},
    "hunyuan_v1_moe": {"head_dim": HIDDEN // HEADS},
    "cvt": {"depth": [1, 2, 10]},
    "codegen": {"n_head": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}
"""By model_type: the fields that no rule sets right."""


def small_config(model_type: str, special: dict[str, int], vocabulary: int, settings: dict[str, Any]) -> Any:
    """The configuration.

    special: ids by name ("pad", "bos", "eos", "mask", …). vocabulary: number of the tokenizer's ids; the embedding has
    some more, which stand for images and the like. settings: of the outermost configuration.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _shrink(CONFIG_MAPPING[model_type], special, vocabulary, settings)


def _shrink(kind: Any, special: dict[str, int], vocabulary: int, settings: dict[str, Any]) -> Any:
    default = kind()
    own = [field.name for field in dataclasses.fields(kind) if field.name not in _base_fields() | {"num_labels"}]
    fields: dict[str, Any] = {}
    extra = vocabulary
    for name in own:
        value = _read(default, name)
        if name in kind.sub_configs:
            if value is not None:
                kept = {each: True for each in ("is_decoder", "add_cross_attention") if getattr(value, each, False)}
                fields[name] = _shrink(type(value), special, vocabulary, kept)
        elif _SPECIAL.match(name) and isinstance(value, int):
            known = next((known for known in special if known in name), None)
            fields[name] = special[known] if known else extra
            extra += known is None
        elif "vocab_size" in name and name not in _OTHER_VOCABULARIES and isinstance(value, int):
            fields[name] = vocabulary + SPARE
        elif isinstance(value, int) and not isinstance(value, bool):
            fields[name] = _size(name, value)
        elif isinstance(value, list | tuple) and value and all(isinstance(each, int) for each in value):
            fields[name] = _sizes(name, list(value))
    _keep_kinds_of_layers(fields, own, default)
    if default.is_encoder_decoder:
        is_pad = _read(default, "decoder_start_token_id") in (None, _read(default, "pad_token_id"))
        fields["decoder_start_token_id"] = special["pad" if is_pad else "eos"]
    fields |= EXCEPTIONS.get(kind.model_type, {})
    return kind(**{name: value for name, value in fields.items() if value is not None}, **settings)


def _size(name: str, value: int) -> int:
    for rule, size in _RULES:
        if re.fullmatch(rule, name):
            if size == 0 or value <= 0:
                return value
            return TOKENS if size == TOKENS else min(size, value)
    return value


def _sizes(name: str, values: list[int]) -> Any:
    """Of the stages of a network: one layer each, and widths and heads in the same proportion."""
    if re.fullmatch(r"depths|layer_depths|num_block_repeats|num_layers|layers|block_sizes|depth", name):
        return [1] * len(values)
    if re.fullmatch(r"(num_)?(attention_)?heads|num_attention_heads", name) and min(values) > 0:
        return [max(1, value // min(values)) for value in values]
    if re.fullmatch(r".*(hidden_sizes|embed_dims?|encoder_hidden_sizes|dims)", name) and min(values) > 0:
        return [value * 16 // min(values) for value in values]
    return None


def _keep_kinds_of_layers(fields: dict[str, Any], own: list[str], default: Any) -> None:
    """One layer of each kind that the default has, in its order; at least two layers."""
    lists = {
        name: value
        for name in own
        if isinstance(value := _read(default, name), list | tuple) and value and isinstance(value[0], str)
    }
    count = next((name for name in ("num_hidden_layers", "num_layers", "n_layer") if name in own), None)
    layers = {name: value for name, value in lists.items() if count and len(value) == _read(default, count)}
    if not layers:
        return
    kinds = list(dict.fromkeys(zip(*layers.values(), strict=True)))
    kinds *= math.ceil(2 / len(kinds))
    fields[str(count)] = len(kinds)
    fields |= {name: [kind[place] for kind in kinds] for place, name in enumerate(layers)}


def _read(config: Any, name: str) -> Any:
    """The field's value, None where it has none or several."""
    try:
        return getattr(config, name, None)
    except Exception:  # of configurations that differ by layer
        return None


def _base_fields() -> set[str]:
    from transformers import PreTrainedConfig

    return {field.name for field in dataclasses.fields(PreTrainedConfig)}
