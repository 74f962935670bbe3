"""Languages of translation: how a source text is marked, and the token with which its translation begins. Front side.

The contract holds the languages that the tokenizer has (`registry.contract.Languages`).
"""

from array import array
from collections.abc import Sequence

from registry.contract import LANGUAGE, Contract, Languages
from serving.errors import Unprocessable
from serving.processors.tokenizer import TextEncoder, TextParameters
from serving.wire.messages import EncodedRow

MAX_CHOICES = 20
"""Most languages in an error message."""


def find_language(languages: Languages | None, name: str, code: str) -> int:
    """The id of a language's token. name: of the field that holds the code. Raises Unprocessable with the choices."""
    if languages is None:
        raise Unprocessable(f"parameters.{name} is {code!r}, but this model's tokenizer has no languages: leave it out")
    found = languages.ids.get(code)
    if found is None:
        raise Unprocessable(
            f"parameters.{name} is {code!r}, which this model's tokenizer lacks; choose one of: "
            f"{list_choices(code, sorted(languages.ids))}"
        )
    return found


def list_choices(code: str, codes: Sequence[str]) -> str:
    """At most MAX_CHOICES codes, those first that begin as the unknown one does."""
    alike = [each for each in codes if code and each.lower().startswith(code[:2].lower())]
    ordered = [*alike, *(each for each in codes if each not in alike)]
    rest = len(ordered) - MAX_CHOICES
    return ", ".join(ordered[:MAX_CHOICES]) + (f" and {rest} more" if rest > 0 else "")


def find_first_token(contract: Contract, tgt_lang: str | None, forced: int | None) -> int | None:
    """The first new token: the target language's, or the one that a request forces; None for the checkpoint's own."""
    if tgt_lang is not None:
        language = find_language(contract.processor.languages, "tgt_lang", tgt_lang)
        if forced is not None and forced != language:
            raise Unprocessable(
                f"parameters.forced_bos_token_id is {forced}, tgt_lang {tgt_lang!r} has {language}: leave one out"
            )
        return language
    if forced is not None and forced >= contract.processor.vocabulary:
        vocabulary = contract.processor.vocabulary
        raise Unprocessable(f"parameters.forced_bos_token_id is {forced}, this model has {vocabulary:,} tokens")
    return forced


def encode_source(
    text: str, src_lang: str, encoder: TextEncoder, contract: Contract, cut: TextParameters
) -> EncodedRow:
    """The row of a text in a language, marked as the tokenizer marks it. Raises Unprocessable."""
    languages = contract.processor.languages
    language = find_language(languages, "src_lang", src_lang)
    assert languages is not None
    before, after = (
        array("i", [language if token == LANGUAGE else token for token in marks]).tobytes()
        for marks in (languages.before, languages.after)
    )
    marks = len(languages.before) + len(languages.after)
    row = encoder.row(text, parameters=cut, max_tokens=max(1, contract.max_tokens - marks), special=False)
    return EncodedRow(row.length + marks, before + row.tokens + after, batch_key=row.batch_key)
