"""The tokenizer's part of the contract: inputs, padding, longest row, and a check that its fast form is faithful."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import msgspec

from registry.contract import LANGUAGE, Languages, Processor
from registry.errors import (
    CheckpointWarning,
    IncompleteArtifact,
    UnreadableArtifact,
    UnsupportedHead,
)
from registry.saved_processors import NO_FAST_FORM

MAX_SHOWN = 8
"""Tokens that a message lists."""

_PROBES = (
    "A short probe.",
    "Mixed CASE, naïve café, 12.5%, tabs\tand  spaces",
    "日本語 العربية émoji 🙂 end",
)


def describe_processor(
    model: Any, tokenizer: Any, folder: Path, *, generates: bool = False, ends_by_id: bool = False
) -> Processor:
    """The tokenizer's part of the contract, after comparing `folder/tokenizer.json` with the tokenizer itself.

    generates: whether the task writes text; then a tokenizer without a pad token is served. ends_by_id: whether the
    head may find a row's end by the id of its padding. Raises IncompleteArtifact: no fast form, no pad token, ordinary
    tokens without an embedding, or a fast form that tokenizes differently.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        name = type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise IncompleteArtifact(f"{name} {NO_FAST_FORM}")
        raise IncompleteArtifact(f"{name} wrote no tokenizer.json: use the fast tokenizer of the model (AutoTokenizer)")
    rows = _embedding_rows(model)
    stated = getattr(model.config.get_text_config(), "pad_token_id", None)
    padding = _choose_padding(tokenizer, generates=generates)
    if ends_by_id:
        padding = stated if stated is not None and 0 <= stated < rows else _choose_no_end(tokenizer, padding)
    vocabulary = _count_ids(tokenizer, rows, padding)
    _compare(path, tokenizer)
    inputs = tuple(name for name in tokenizer.model_input_names if _takes(model, name))
    types = _count_types(model, tokenizer) if "token_type_ids" in inputs else None
    languages = describe_languages(tokenizer, rows)
    highest = max(languages.ids.values()) if languages else 0  # beyond len() in M2M100's
    return Processor(
        class_name=type(tokenizer).__name__,
        inputs=inputs,
        pad_token_id=padding,
        unk_token_id=tokenizer.unk_token_id,
        vocabulary=max(vocabulary, highest + 1),
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.eos_token_id,
        mask_token_id=tokenizer.mask_token_id,
        languages=languages,
        token_types=msgspec.UNSET if types is None else types,
        cleans_up=True if _cleans_up(tokenizer) else msgspec.UNSET,
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


def _cleans_up(tokenizer: Any) -> bool:
    """Whether `decode` of transformers (5.23) cleans texts up: not those of a byte-pair encoding, unless forced to."""
    if not tokenizer.clean_up_tokenization_spaces:
        return False
    is_forced = tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    return is_forced or not tokenizer.is_fast or type(tokenizer.backend_tokenizer.model).__name__ != "BPE"


def _choose_padding(tokenizer: Any, *, generates: bool) -> int:
    """The id that fills shorter rows: the tokenizer's pad token; where it has none and text is written, its end token.

    `generate` of transformers (5.23) takes the end token, too: attention is masked at padding. Classifiers that are
    decoders tell padding by its id, so other tasks need a pad token. Raises IncompleteArtifact where it is missing.
    """
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    if generates:
        return int(tokenizer.eos_token_id or 0)
    raise IncompleteArtifact(
        "the tokenizer has no pad token, so rows of different lengths cannot share a batch: set "
        "tokenizer.pad_token = tokenizer.eos_token and model.config.pad_token_id to its id, then log again"
    )


def _choose_no_end(tokenizer: Any, padding: int) -> int:
    """`padding`, or another id where the tokenizer itself ends rows with that.

    A classifier that is a decoder reads a row's last token that is not padding. Alone, without `pad_token_id` in
    config.json, that is a row's last one (transformers 5.23).
    """
    ends = {tokenizer(*texts)["input_ids"][-1] for texts in (_PROBES[:1], _PROBES[:2])}
    return padding if padding not in ends else min(set(range(len(ends) + 1)) - ends)


def _count_ids(tokenizer: Any, rows: int, padding: int) -> int:
    """Upper bound of the ids that a row may have: those of the tokenizer that the model has an embedding for.

    Special tokens may lack one (the mask of bart-large-cnn): texts that hold them are refused. Warns of them. Raises
    IncompleteArtifact where ordinary tokens lack one, or a token that the tokenizer itself adds to rows.
    """
    vocabulary = tokenizer.get_vocab()
    absent = {index: token for token, index in vocabulary.items() if index >= rows}
    if absent.keys() - {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}:
        raise IncompleteArtifact(
            f"the tokenizer has {len(vocabulary)} tokens, the model's embedding {rows} rows: this is another model's "
            "tokenizer, or model.resize_token_embeddings(len(tokenizer)) is missing before training"
        )
    used = {*tokenizer(_PROBES[0])["input_ids"], padding} & absent.keys()
    if used:
        raise IncompleteArtifact(
            f"the tokenizer puts {absent[min(used)]} (id {min(used)}) into rows, the model's embedding has {rows}: "
            "use a token of the model's own, as in tokenizer.pad_token = tokenizer.eos_token, or call "
            "model.resize_token_embeddings(len(tokenizer)) before training"
        )
    if absent:
        shown = ", ".join(absent[index] for index in sorted(absent)[:MAX_SHOWN])
        more = f" and {len(absent) - MAX_SHOWN} more" if len(absent) > MAX_SHOWN else ""
        warnings.warn(
            f"the model has no embedding for {shown}{more}: texts that hold it are refused",
            CheckpointWarning,
            stacklevel=5,
        )
    return min(rows, max(vocabulary.values(), default=0) + 1)


def _count_types(model: Any, tokenizer: Any) -> int | None:
    """How many token types the model has embeddings for; None where it has no table of them.

    Warns where the tokenizer gives a pair more: pairs are refused.
    """
    tables = (module for name, module in model.named_modules() if name.endswith("token_type_embeddings"))
    types = min((table.num_embeddings for table in tables if hasattr(table, "num_embeddings")), default=None)
    highest = max(tokenizer(*_PROBES[:2]).get("token_type_ids", [0]))
    if types is not None and highest >= types:
        warnings.warn(
            f"the tokenizer gives a pair of texts the token type {highest}, the model has embeddings for {types} "
            "(type_vocab_size in config.json): pairs are refused. If it was trained without token types, take "
            "token_type_ids out of model_input_names in tokenizer_config.json, and log it again",
            CheckpointWarning,
            stacklevel=5,
        )
    return types


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
    if tokenizer.split_special_tokens:
        raise IncompleteArtifact(
            "tokenizer_config.json: split_special_tokens, by which special tokens in a text are read as text, is not "
            "served: remove it, and log again"
        )
    special = " ".join(
        f"word {token}" for token in [*dict.fromkeys(map(str, tokenizer.all_special_tokens))][:MAX_SHOWN]
    )
    probes = [(text,) for text in (*_PROBES, special) if text] + [_PROBES[:2]]
    for texts in probes:
        found, expected = fast.encode(*texts), tokenizer(*texts)
        if len(found.tokens) != len(found.ids):
            raise UnreadableArtifact(
                "tokenizer.json: post_processor.special_tokens has a token whose ids and texts differ in number: "
                "correct it there, or save the tokenizer again with save_pretrained"
            )
        types = expected.get("token_type_ids", found.type_ids)
        if (found.ids, found.type_ids) != (expected["input_ids"], types):
            raise IncompleteArtifact(
                f"tokenizer.json and {type(tokenizer).__name__} tokenize {' and '.join(map(repr, texts))} differently: "
                "save the tokenizer with the installed transformers version and log again"
            )


def _takes(model: Any, name: str) -> bool:
    """Whether the model has an argument `name`. DistilBERT, with BERT's tokenizer, has no token types."""
    return name in ("input_ids", "attention_mask") or name in inspect.signature(model.forward).parameters
