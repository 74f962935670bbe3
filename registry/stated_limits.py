"""How long a row of tokens may be, by what tokenizer and model say of themselves."""

from typing import Any

from registry.errors import IncompleteArtifact

UNLIMITED_TOKENS = 512
"""Longest row of a model that sets no limit of its own (relative positions and no `model_max_length`). Untuned."""


def longest_row(model: Any, tokenizer: Any) -> int:
    """Tokens of the longest row that model and tokenizer both claim to take, special tokens included, >= 1.

    The least of all limits: the tokenizer's `model_max_length`, the configuration's positions, and learned positions,
    of which an embedding with a padding index (RoBERTa) counts from padding_idx + 1. UNLIMITED_TOKENS where there is
    none, as with relative positions. Logging then runs a row of that length. Raises IncompleteArtifact, which names the
    limit, where special tokens leave no room for a text.
    """
    limits = {
        "model_max_length in tokenizer_config.json (or max_seq_length in sentence_bert_config.json)": (
            tokenizer.model_max_length
        ),
        "max_position_embeddings in config.json": getattr(
            model.config.get_text_config(), "max_position_embeddings", None
        ),
    }
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and hasattr(module, "num_embeddings"):
            offset = module.padding_idx + 1 if module.padding_idx is not None else 0
            limits[f"the rows of {name}"] = module.num_embeddings - offset
    known = {source: int(limit) for source, limit in limits.items() if limit and 0 < limit < 1_000_000}
    source = min(known, key=lambda name: known[name], default="")
    longest = known.get(source, UNLIMITED_TOKENS)
    special = tokenizer.num_special_tokens_to_add()
    if longest <= special:
        raise IncompleteArtifact(
            f"{source} allows rows of {longest} tokens, of which {special} are special: correct it to the longest row "
            "that the model was trained with, or remove it"
        )
    return longest
