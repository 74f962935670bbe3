"""The fast form of tokenizers for which transformers (5.23) has none: M2M100's and Marian's. Fronts read no other form.

Their SentencePiece model becomes a Unigram model of the tokenizers library, with the ids of their vocab.json.
`registry.processors` compares the two before a version is logged.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.errors import IncompleteArtifact

UNIGRAM = 1
"""SentencePiece's number of the model type."""
NORMAL = 1
"""SentencePiece's number of a piece that is text."""
NEVER_TEXT = (2, 3, 5)
"""SentencePiece's numbers of pieces that no text is cut into: unknown, control and unused ones."""
NEVER = -1e4
"""The score of a token that no text is cut into, such as a special token. Far below any real piece's."""


def write_fast_form(tokenizer: Any, folder: Path) -> None:
    """Write `folder/tokenizer.json` where the tokenizer wrote none and is of a class that can be converted.

    Raises IncompleteArtifact where its SentencePiece model cannot be converted exactly.
    """
    path = folder / "tokenizer.json"
    convert = _CONVERTERS.get(type(tokenizer).__name__)
    if not path.is_file() and convert is not None:
        path.write_text(convert(tokenizer).to_str(), encoding="utf-8")


def _convert_m2m_100(tokenizer: Any) -> Any:
    """Each text between the token of its language and the end token."""
    languages = sorted(tokenizer.lang_token_to_id, key=tokenizer.lang_token_to_id.get)
    fast = _convert(tokenizer, tokenizer.sp_model, tokenizer.lang_token_to_id.values())
    _add_special(fast, [tokenizer.bos_token, tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token, *languages])
    _mark_ends(fast, tokenizer, [tokenizer.get_lang_token(tokenizer.src_lang)], languages)
    return fast


def _convert_marian(tokenizer: Any) -> Any:
    """Each text before the end token; one that begins with a target language, as in ">>fra<< A text.", keeps it."""
    from tokenizers import AddedToken

    name = type(tokenizer).__name__
    if tokenizer.separate_vocabs:
        raise IncompleteArtifact(
            f"{name} has no fast form, and tokenizer_config.json says separate_vocabs, which one tokenizer.json cannot "
            "hold: choose a checkpoint whose source and target share a vocabulary"
        )
    fast = _convert(tokenizer, tokenizer.spm_source, ())
    _add_special(fast, [tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token])
    fast.add_tokens([AddedToken(code, normalized=False) for code in tokenizer.supported_language_codes])
    _mark_ends(fast, tokenizer, [], [])
    return fast


_CONVERTERS = {"M2M100Tokenizer": _convert_m2m_100, "MarianTokenizer": _convert_marian}


def _add_special(fast: Any, tokens: Sequence[Any]) -> None:
    from tokenizers import AddedToken

    fast.add_special_tokens([AddedToken(str(token), special=True) for token in tokens])


def _mark_ends(fast: Any, tokenizer: Any, before: list[str], others: Sequence[str]) -> None:
    """Put `before` and the end token around each text, and around both texts of a pair."""
    from tokenizers import processors

    end = str(tokenizer.eos_token)
    fast.post_processor = processors.TemplateProcessing(
        single=" ".join([*before, "$A", end]),
        pair=" ".join([*before, "$A", "$B", end]),
        special_tokens=[(token, fast.token_to_id(token)) for token in (*others, end)],
    )


def _convert(tokenizer: Any, spm: Any, added: Any) -> Any:
    """The tokenizer without its special tokens. spm: its SentencePiece model. added: ids beside those of vocab.json."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import import_protobuf

    described = import_protobuf().ModelProto()
    described.ParseFromString(spm.serialized_model_proto())
    scores = {piece.piece: piece.score for piece in described.pieces if piece.type == NORMAL}
    _check(described, scores.keys() - tokenizer.encoder.keys(), tokenizer, [*tokenizer.encoder.values(), *added])
    ordered = sorted(tokenizer.encoder, key=tokenizer.encoder.get)
    fast = Tokenizer(
        models.Unigram([(token, scores.get(token, NEVER)) for token in ordered], unk_id=tokenizer.unk_token_id)
    )
    charsmap = described.normalizer_spec.precompiled_charsmap
    fast.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    fast.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return fast


def _check(described: Any, missing: set[str], tokenizer: Any, ids: Sequence[int]) -> None:
    """Raise IncompleteArtifact for what the tokenizers library would do otherwise. ids: of all tokens."""
    name = type(tokenizer).__name__
    spec = described.normalizer_spec
    is_other = any(piece.type != NORMAL and piece.type not in NEVER_TEXT for piece in described.pieces)
    if (
        described.trainer_spec.model_type != UNIGRAM
        or is_other
        or not (spec.add_dummy_prefix and spec.remove_extra_whitespaces)
    ):
        raise IncompleteArtifact(
            f"{name} has no fast form, and its SentencePiece model is of another kind than those of M2M100 and Marian: "
            "choose a checkpoint whose tokenizer has a tokenizer.json"
        )
    if missing:
        raise IncompleteArtifact(
            f"{name} has no fast form, and {len(missing)} pieces of its SentencePiece model, such as {min(missing)!r}, "
            "are not in vocab.json: save the files of one training together"
        )
    if sorted(ids) != list(range(len(ids))):
        raise IncompleteArtifact(
            f"the ids in vocab.json of {name} are not 0 to {len(ids) - 1}, each once: restore that file, or save the "
            "tokenizer again with save_pretrained"
        )
