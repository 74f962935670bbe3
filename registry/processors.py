"""The tokenizer's part of the contract: inputs, padding, longest row, and a check that its fast form is faithful."""

import inspect
from pathlib import Path
from typing import Any

from registry.contract import Processor
from registry.errors import IncompleteArtifact, UnsupportedHead

UNLIMITED_TOKENS = 512
"""Longest row of a model that sets no limit of its own (relative positions and no `model_max_length`). Untuned."""

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
"""One of these files is in a folder that holds a tokenizer."""

_PROBES = (
    "A short probe.",
    "Mixed CASE, naïve café, 12.5%, tabs\tand  spaces",
    "日本語 العربية émoji 🙂 end",
)


def load_processor(folder: Path, of_images: bool) -> Any:
    """The tokenizer, or of a model that reads images the image processor, in a `save_pretrained` folder.

    Raises IncompleteArtifact.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    noun, method = ("image processor", "image_processor") if of_images else ("tokenizer", "tokenizer")
    if not of_images and not any((folder / name).is_file() for name in VOCABULARIES):
        raise IncompleteArtifact(  # transformers (5.23) would make an empty tokenizer from config.json alone
            f"{folder} holds no tokenizer: save it there with tokenizer.save_pretrained"
        )
    try:
        if of_images:
            return AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise IncompleteArtifact(
            f"no {noun} could be loaded from {folder} ({error}): save it there with {method}.save_pretrained"
        ) from error


def describe_processor(model: Any, tokenizer: Any, folder: Path) -> Processor:
    """The tokenizer's part of the contract, after comparing `folder/tokenizer.json` with the tokenizer itself.

    Raises IncompleteArtifact: no fast form, no pad token, a vocabulary larger than the embedding, or a fast form that
    tokenizes differently.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise IncompleteArtifact(
            f"{type(tokenizer).__name__} wrote no tokenizer.json: use the fast tokenizer of the model (AutoTokenizer)"
        )
    if tokenizer.pad_token_id is None:
        raise IncompleteArtifact(
            "the tokenizer has no pad token, so rows of different lengths cannot share a batch: set "
            "tokenizer.pad_token = tokenizer.eos_token and model.config.pad_token_id to its id, then log again"
        )
    rows = _embedding_rows(model)
    if len(tokenizer) > rows:
        raise IncompleteArtifact(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding {rows} rows: this is another model's "
            "tokenizer, or model.resize_token_embeddings(len(tokenizer)) is missing before training"
        )
    _compare(path, tokenizer)
    return Processor(
        class_name=type(tokenizer).__name__,
        inputs=tuple(name for name in tokenizer.model_input_names if _takes(model, name)),
        pad_token_id=int(tokenizer.pad_token_id),
        unk_token_id=tokenizer.unk_token_id,
        vocabulary=len(tokenizer),
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.eos_token_id,
        mask_token_id=tokenizer.mask_token_id,
    )


def longest_row(model: Any, tokenizer: Any) -> int:
    """Tokens of the longest row that model and tokenizer both claim to take, special tokens included, >= 1.

    The least of all limits: the tokenizer's `model_max_length`, the configuration's positions, and learned positions,
    of which an embedding with a padding index (RoBERTa) counts from padding_idx + 1. UNLIMITED_TOKENS where there is
    none, as with relative positions. Logging then runs a row of that length.
    """
    limits = [tokenizer.model_max_length, getattr(model.config.get_text_config(), "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and hasattr(module, "num_embeddings"):
            offset = module.padding_idx + 1 if module.padding_idx is not None else 0
            limits.append(module.num_embeddings - offset)
    return min((int(limit) for limit in limits if limit and 0 < limit < 1_000_000), default=UNLIMITED_TOKENS)


def _embedding_rows(model: Any) -> int:
    """Number of token ids that the model has an embedding for; raises UnsupportedHead where it has no such table."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError) as error:
        raise UnsupportedHead(
            f"{type(model).__name__} has no table of token embeddings, so it does not read a tokenizer's ids: choose a "
            "model that does (`headwaiter heads`)"
        ) from error


def _compare(path: Path, tokenizer: Any) -> None:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(path))
    fast.no_padding()
    fast.no_truncation()
    probes = [(text,) for text in _PROBES] + [_PROBES[:2]]
    for texts in probes:
        found, expected = fast.encode(*texts), tokenizer(*texts)
        types = expected.get("token_type_ids", found.type_ids)
        if (found.ids, found.type_ids) != (expected["input_ids"], types):
            raise IncompleteArtifact(
                f"tokenizer.json and {type(tokenizer).__name__} tokenize {' and '.join(map(repr, texts))} differently: "
                "save the tokenizer with the installed transformers version and log again"
            )


def _takes(model: Any, name: str) -> bool:
    """Whether the model has an argument `name`. DistilBERT, with BERT's tokenizer, has no token types."""
    return name in ("input_ids", "attention_mask") or name in inspect.signature(model.forward).parameters
