"""text2text-generation, summarization and translation: text from text, by greedy search, sampling or beam search.

The three differ in the field of their answer, as in the Hugging Face inference API, and in their contract's prefix of
each text, which a checkpoint's `task_specific_params` can state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from registry.checkpoint_files import CheckpointKeys, read_json
from registry.contract import Contract
from serving.errors import Unprocessable
from serving.processors.token_ids import TokenIds, encode_ids
from serving.tasks.base.fields import MAX_INTEGER, Name, Natural, Positive
from serving.tasks.base.generated_text import GeneratedText, answer
from serving.tasks.base.generation import (
    GeneratingTask,
    GenerationDefaults,
    GenerationParameters,
    PositiveNumber,
    default_new_tokens,
    make_rows,
    requested_new_tokens,
)
from serving.tasks.base.generation_settings import MAX_BEAMS
from serving.tasks.base.languages import encode_source, find_first_token, list_choices
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import Encoded, EncodedRow, RowArrays

START_TOKENS = 1
"""Tokens of the decoder's input before the new ones."""


class Parameters(GenerationParameters, frozen=True):
    """num_beams: beams of a search, 1 for none. length_penalty: of beams, above 1 favours longer texts.

    early_stopping: whether the search ends with the first `num_beams` finished texts. src_lang, tgt_lang: languages of
    the text and of its translation. forced_bos_token_id: the first new token. min_length, max_length: tokens of the
    text with the decoder's start token, as transformers' `generate` counts them. generate_parameters, truncation,
    clean_up_tokenization_spaces: the Hugging Face client's names for further settings, for `truncate`, and for what
    must be false.
    """

    num_beams: Positive | None = None
    length_penalty: PositiveNumber | None = None
    early_stopping: bool | None = None
    src_lang: Name | None = None
    tgt_lang: Name | None = None
    forced_bos_token_id: Natural | None = None
    min_length: Natural | None = None
    max_length: Annotated[int, msgspec.Meta(ge=2, le=MAX_INTEGER)] | None = None
    generate_parameters: dict[str, Any] | None = None
    truncation: Literal["do_not_truncate", "longest_first", "only_first"] | None = None
    clean_up_tokenization_spaces: bool | None = None

    def __post_init__(self) -> None:
        """Move settings from the fields of the Hugging Face client and of `generate` to their own."""
        if self.clean_up_tokenization_spaces:
            raise ValueError("clean_up_tokenization_spaces is the tokenizer's own setting: leave it out")
        if self.truncation is not None:
            msgspec.structs.force_setattr(self, "truncate", self.truncation != "do_not_truncate")
        if self.generate_parameters:
            if "generate_parameters" in self.generate_parameters:
                raise ValueError("generate_parameters stands within itself: leave the inner one out")
            try:
                settings = msgspec.convert(self.generate_parameters, type(self))
            except msgspec.ValidationError as error:
                raise ValueError(f"generate_parameters: {str(error).replace(' - at `$.', ' - of `')}") from error
            for name, value in self.generate_parameters.items():
                if value is not None:
                    msgspec.structs.force_setattr(self, name, getattr(settings, name))
        for name in ("min", "max"):
            length, own = getattr(self, f"{name}_length"), f"{name}_new_tokens"
            if length is not None and getattr(self, own) is None:  # as in `generate`, new tokens come first
                msgspec.structs.force_setattr(self, own, max(0, length - 1))


class Defaults(GenerationDefaults, frozen=True):
    """prefix: of each text, as in "summarize: ". src_lang, tgt_lang: of a request that names none; None for the marks
    and the first token of tokenizer and checkpoint.
    """

    prefix: str = ""
    src_lang: Name | None = None
    tgt_lang: Name | None = None


class Text2TextGeneration(GeneratingTask[Parameters, None]):
    """Text → texts."""

    parameters_type = Parameters
    defaults_type = Defaults
    specific_keys = frozenset({"prefix"})
    example = (
        "The quick brown fox jumps over the lazy dog.",
        "It rained all day, so the match was put off until Monday.",
    )

    def __init__(self, name: str, field: str) -> None:
        self.name = name
        self._field = field

    def folder_settings(self, folder: Path) -> dict[str, object]:
        """The prefix for this task, too, the only one of `task_specific_params` that is used."""
        stated, path = super().folder_settings(folder), folder / "config.json"
        if not path.is_file():
            return stated
        found = (read_json(path, CheckpointKeys).task_specific_params or {}).get(self.name)
        prefix = found.prefix if found is not None else None
        return stated | ({"prefix": prefix} if prefix is not None else {})

    def problem(self, contract: Contract) -> str | None:
        """A default language that the tokenizer lacks."""
        defaults = msgspec.convert(contract.defaults, Defaults)
        known = contract.processor.languages.ids if contract.processor.languages else {}
        for name in ("src_lang", "tgt_lang"):
            code = getattr(defaults, name)
            if code is not None and code not in known:
                choices = list_choices(code, sorted(known)) or "none"
                return f"the default {name} is {code!r}; the languages of the tokenizer: {choices}"
        return None

    def encode(self, item: str | TokenIds, parameters: Parameters, version: VersionContext) -> Encoded[None]:
        """A row per generated text."""
        if parameters.num_beams is not None and parameters.num_beams > MAX_BEAMS:
            raise Unprocessable(f"parameters.num_beams is {parameters.num_beams}, at most {MAX_BEAMS} are searched")
        if parameters.clean_up_tokenization_spaces is False and version.tokenizer.cleans_up:
            raise Unprocessable(
                "parameters.clean_up_tokenization_spaces is true for this model's tokenizer: leave it out"
            )
        if not item:
            raise Unprocessable("inputs holds an empty text: every text needs at least one character")
        count = requested_new_tokens(parameters, version.defaults)
        count = count or default_new_tokens(version.defaults, START_TOKENS)
        forced = parameters.forced_bos_token_id
        target = parameters.tgt_lang or (version.defaults.tgt_lang if forced is None else None)
        first = find_first_token(version.contract, target, forced)
        row = self._encode_source(item, parameters, version)
        search = {name: getattr(parameters, name) for name in ("num_beams", "length_penalty", "early_stopping")}
        return Encoded(make_rows(row, parameters, count, forced_bos_token_id=first, **search), None)

    def _encode_source(self, item: str | TokenIds, parameters: Parameters, version: VersionContext) -> EncodedRow:
        if isinstance(item, TokenIds):
            if parameters.src_lang is not None:
                raise Unprocessable("parameters.src_lang has no effect on token ids: leave it out")
            return encode_ids(item, version.tokenizer, parameters=parameters)
        text = version.defaults.prefix + item
        language = parameters.src_lang or version.defaults.src_lang
        if language is None or not parameters.add_special_tokens:
            if parameters.src_lang is not None:
                raise Unprocessable("parameters.src_lang needs special tokens: leave add_special_tokens out")
            return version.tokenizer.row(text, parameters=parameters, special=parameters.add_special_tokens)
        return encode_source(text, language, version.tokenizer, version.contract, parameters)

    def decode(
        self, rows: Sequence[RowArrays], decode_context: None, parameters: Parameters, version: VersionContext
    ) -> list[GeneratedText]:
        """`[{"generated_text": …}, …]`, with the field of the task that the model was logged for."""
        return answer(rows, parameters, version, self._field)


TASKS = {
    name: Text2TextGeneration(name, field)
    for name, field in (
        ("text2text-generation", "generated_text"),
        ("summarization", "summary_text"),
        ("translation", "translation_text"),
    )
}
