"""The fast form of a tokenizer for which transformers (5.23) has none: M2M100's. A front reads no other form.

Its SentencePiece model becomes a Unigram model of the tokenizers library, with the ids of its vocab.json.
`registry.processors` compares the two before a version is logged.
"""

from pathlib import Path
from typing import Any

from registry.errors import IncompleteArtifact

CLASSES = ("M2M100Tokenizer",)
UNIGRAM = 1
"""SentencePiece's number of the model type."""
NORMAL = 1
"""SentencePiece's number of a piece that is text: neither unknown nor control."""
NEVER = -1e4
"""The score of a token that no text is cut into, such as a special token. Far below any real piece's."""


def write_fast_form(tokenizer: Any, folder: Path) -> None:
    """Write `folder/tokenizer.json` where the tokenizer wrote none and is of a class that can be converted.

    Raises IncompleteArtifact where its SentencePiece model cannot be converted exactly.
    """
    path = folder / "tokenizer.json"
    if not path.is_file() and type(tokenizer).__name__ in CLASSES:
        path.write_text(_convert(tokenizer).to_str(), encoding="utf-8")


def _convert(tokenizer: Any) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import import_protobuf

    described = import_protobuf().ModelProto()
    described.ParseFromString(tokenizer.sp_model.serialized_model_proto())
    scores = {piece.piece: piece.score for piece in described.pieces if piece.type == NORMAL}
    _check(described, scores.keys() - tokenizer.encoder.keys(), tokenizer)
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
    special = [tokenizer.bos_token, tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token]
    languages = sorted(tokenizer.lang_token_to_id, key=tokenizer.lang_token_to_id.get)
    fast.add_special_tokens([AddedToken(str(token), special=True) for token in (*special, *languages)])
    marks = [(token, fast.token_to_id(token)) for token in (*languages, tokenizer.eos_token)]
    source = tokenizer.get_lang_token(tokenizer.src_lang)
    template = f"{source} $A {tokenizer.eos_token}"
    fast.post_processor = processors.TemplateProcessing(
        single=template, pair=f"{source} $A $B {tokenizer.eos_token}", special_tokens=marks
    )
    return fast


def _check(described: Any, missing: set[str], tokenizer: Any) -> None:
    """Raise IncompleteArtifact for what the tokenizers library would do otherwise."""
    name = type(tokenizer).__name__
    spec = described.normalizer_spec
    if described.trainer_spec.model_type != UNIGRAM or not (spec.add_dummy_prefix and spec.remove_extra_whitespaces):
        raise IncompleteArtifact(
            f"{name} has no fast form, and its SentencePiece model is of another kind than M2M100's"
        )
    if missing:
        raise IncompleteArtifact(
            f"{name} has no fast form, and {len(missing)} pieces of its SentencePiece model, such as {min(missing)!r}, "
            "are not in vocab.json: save the files of one training together"
        )
    ids = [*tokenizer.encoder.values(), *tokenizer.lang_token_to_id.values()]
    if sorted(ids) != list(range(len(ids))):
        raise IncompleteArtifact(
            f"the ids in vocab.json of {name} are not 0 to {len(tokenizer.encoder) - 1}, each once"
        )
