"""The tokenizer's part of the contract: inputs, padding, longest row, and a check that its fast form is faithful."""

from pathlib import Path
from typing import Any

from registry.contract import LANGUAGE, Languages, Processor
from registry.errors import IncompleteArtifact

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
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise IncompleteArtifact(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding {rows} rows: this is another model's "
            "tokenizer, or model.resize_token_embeddings(len(tokenizer)) is missing before training"
        )
    _compare(path, tokenizer)
    languages = describe_languages(tokenizer, rows)
    highest = max(languages.ids.values()) if languages else 0  # beyond len() in M2M100's
    return Processor(
        class_name=type(tokenizer).__name__,
        inputs=tuple(tokenizer.model_input_names),
        pad_token_id=int(tokenizer.pad_token_id),
        unk_token_id=tokenizer.unk_token_id,
        vocabulary=max(len(tokenizer), highest + 1),
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.eos_token_id,
        mask_token_id=tokenizer.mask_token_id,
        languages=languages,
    )


def describe_languages(tokenizer: Any, rows: int) -> Languages | None:
    """The languages of a tokenizer for translation (mBART, M2M100, NLLB) that the model's embedding has rows for.

    None for any other tokenizer, and where the marks of two languages differ in more than the language's id.
    """
    if not hasattr(tokenizer, "set_src_lang_special_tokens"):
        return None
    codes = getattr(tokenizer, "lang_code_to_id", None) or tokenizer.extra_special_tokens
    before = tokenizer.src_lang
    ids: dict[str, int] = {}
    marks = set()
    try:
        for code in map(str, codes):
            tokenizer.src_lang = code
            marked = tokenizer.prefix_tokens + tokenizer.suffix_tokens
            ids[code] = next(token for token in marked if token != tokenizer.eos_token_id)
            marks.add(tuple(_mark(part, ids[code]) for part in (tokenizer.prefix_tokens, tokenizer.suffix_tokens)))
    finally:
        tokenizer.src_lang = before
    ids = {code: token for code, token in ids.items() if token != tokenizer.unk_token_id and token < rows}
    if len(marks) != 1 or not ids:
        return None
    ((first, last),) = marks
    return Languages(ids=ids, before=first, after=last)


def _mark(tokens: list[int], language: int) -> tuple[int, ...]:
    return tuple(LANGUAGE if token == language else int(token) for token in tokens)


def longest_row(model: Any, tokenizer: Any) -> int:
    """Tokens of the longest row that model and tokenizer both take, special tokens included, >= 1.

    Learned positions bound it: an embedding with a padding index (RoBERTa) counts from padding_idx + 1. Relative
    positions bound nothing; then the tokenizer's `model_max_length`, or else UNLIMITED_TOKENS.
    """
    limits = []
    if 0 < tokenizer.model_max_length < 1_000_000:
        limits.append(int(tokenizer.model_max_length))
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and hasattr(module, "num_embeddings"):
            offset = module.padding_idx + 1 if module.padding_idx is not None else 0
            limits.append(module.num_embeddings - offset)
    configured = getattr(model.config, "max_position_embeddings", None)
    if configured and not limits:
        limits.append(int(configured))
    return min(limits, default=UNLIMITED_TOKENS)


def _compare(path: Path, tokenizer: Any) -> None:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(path))
    fast.no_padding()
    fast.no_truncation()
    for text in _PROBES:
        if fast.encode(text).ids != tokenizer(text)["input_ids"]:
            raise IncompleteArtifact(
                f"tokenizer.json and {type(tokenizer).__name__} tokenize {text!r} differently: "
                "save the tokenizer with the installed transformers version and log again"
            )
